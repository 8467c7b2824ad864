"""Which questions a step rolls out and what it draws from: functions of the seed and the step, so that a training cut
at any step goes on as if it had not been."""

import hashlib
import random
from collections.abc import Sequence


def units_of(units: Sequence[str], count: int, batch: int, seed: int) -> list[str]:
    """The questions of the batch with number `batch`: `count` of them (fewer where there are fewer), going through all
    questions in a new order each time before any comes again."""
    count = min(count, len(units))
    place = range(batch * count, (batch + 1) * count)
    rounds = {index // len(units) for index in place}
    order = {number: _shuffled(units, seed, number) for number in rounds}
    chosen = [order[index // len(units)][index % len(units)] for index in place]
    return _distinct(chosen, order[max(rounds)])


def seed_of(*parts: object) -> int:
    """A seed below 2**31, different for different parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def _shuffled(units: Sequence[str], seed: int, number: int) -> list[str]:
    order = list(units)
    random.Random(seed_of(seed, "order", number)).shuffle(order)
    return order


def _distinct(chosen: list[str], spare: Sequence[str]) -> list[str]:
    """Where one order ends and the next begins, a question may come twice; it is replaced, or its group would be."""
    kept = list(dict.fromkeys(chosen))
    others = (unit for unit in reversed(spare) if unit not in kept)
    return kept + [next(others) for _ in range(len(chosen) - len(kept))]
