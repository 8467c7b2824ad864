"""The questions and seeds of each step.

They are functions of the run's seed and the step, so that an interrupted training resumes exactly.
"""

import hashlib
import random
from collections.abc import Sequence


def units_of(units: Sequence[str], count: int, batch: int, seed: int) -> list[str]:
    """Return the `count` questions of the batch with number `batch` (fewer if there are fewer questions).

    All questions are used, in a new order each time, before any comes again.
    """
    count = min(count, len(units))
    indices = range(batch * count, (batch + 1) * count)
    passes = {index // len(units) for index in indices}
    order = {number: _shuffled(units, seed, number) for number in passes}
    chosen = [order[index // len(units)][index % len(units)] for index in indices]
    return _distinct(chosen, order[max(passes)])


def seed_of(*parts: object) -> int:
    """Return a seed below 2**31, different for different parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def _shuffled(units: Sequence[str], seed: int, number: int) -> list[str]:
    order = list(units)
    random.Random(seed_of(seed, "order", number)).shuffle(order)
    return order


def _distinct(chosen: list[str], spare: Sequence[str]) -> list[str]:
    """Replace a question that comes twice, where one order ends and the next begins: its group would be too large."""
    distinct = list(dict.fromkeys(chosen))
    others = (unit for unit in reversed(spare) if unit not in distinct)
    return distinct + [next(others) for _ in range(len(chosen) - len(distinct))]
