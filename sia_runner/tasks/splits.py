"""Seeded, stratified cutting of questions into splits; questions that belong together are never cut apart.

Order comes from sha256 over (seed, question), so it is the same in every process, on every machine and Python version.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

Block = list[str]


def order(unit: str, seed: object) -> bytes:
    """Return the sort key of a question under this seed."""
    return hashlib.sha256(f"{seed}|{unit}".encode()).digest()


def shuffled(units: Sequence[str], seed: object) -> list[str]:
    """Return `units` in seeded order."""
    return sorted(units, key=lambda unit: order(unit, seed))


def blocks(units: Sequence[str], ties: Sequence[Callable[[str], str | None]]) -> list[Block]:
    """Group questions that must stay together: those for which some `tie` gives the same key, transitively."""
    parent = {unit: unit for unit in units}

    def root(unit: str) -> str:
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = parent[unit]
        return unit

    for tie in ties:
        first: dict[str, str] = {}
        for unit in units:
            key = tie(unit)
            if key is not None:
                parent[root(unit)] = root(first.setdefault(key, unit))
    by_root: dict[str, Block] = defaultdict(list)
    for unit in units:
        by_root[root(unit)].append(unit)
    return list(by_root.values())


def cut(
    parts: Sequence[Block], stratum: Callable[[str], str], shares: Mapping[str, float], *, seed: int, keep: int = 0
) -> tuple[dict[str, list[str]], list[str]]:
    """Give each name in `shares` its share of the questions, stratum by stratum; return (by name, rest).

    `keep` questions of each stratum stay in the rest, so that a rare class can be learned before it is asked. A
    rounding error is carried to the next stratum, one question at most: one big stratum must not pay for many tiny
    ones.
    """
    by_name: dict[str, list[str]] = {name: [] for name in shares}
    rest: list[str] = []
    deficit = dict.fromkeys(shares, 0.0)
    for queue in _strata(parts, stratum, seed):
        total = remaining = sum(map(len, queue))
        for name, share in shares.items():
            deficit[name] += share * total
            while queue and deficit[name] >= len(queue[-1]) / 2 and remaining - len(queue[-1]) >= keep:
                block = queue.pop()
                by_name[name] += block
                deficit[name] -= len(block)
                remaining -= len(block)
            deficit[name] = min(deficit[name], 1.0)
        rest += [unit for block in queue for unit in block]
    return by_name, rest


def folds(parts: Sequence[Block], stratum: Callable[[str], str], count: int, *, seed: int) -> list[list[str]]:
    """Deal the blocks into `count` folds: even within each stratum first, then in all."""
    dealt: list[list[str]] = [[] for _ in range(count)]
    for queue in _strata(parts, stratum, seed):
        in_stratum = [0] * count
        for block in queue:
            fold = min(range(count), key=lambda k: (in_stratum[k], len(dealt[k])))
            dealt[fold] += block
            in_stratum[fold] += len(block)
    return dealt


def sample(units: Sequence[str], stratum: Callable[[str], str], fraction: float, *, seed: int) -> list[str]:
    """Return a stratified share of `units`, in their order.

    Samples are nested: a smaller share is part of a larger one.
    """
    chosen: set[str] = set()
    for queue in _strata([[unit] for unit in units], stratum, seed):
        chosen.update(unit for [unit] in queue[: math.ceil(fraction * len(queue))])
    return [unit for unit in units if unit in chosen]


def spread(units: Sequence[str], stratum: Callable[[str], str], limit: int, *, seed: int) -> list[str]:
    """Return up to `limit` questions that cover the strata evenly, in the order of `units`.

    As many strata as possible get two questions, then three, four and so on.
    """
    ranked = [
        (max(rank, 1), stratum_index, unit)
        for stratum_index, queue in enumerate(_strata([[unit] for unit in units], stratum, seed))
        for rank, [unit] in enumerate(queue)
    ]
    chosen = {unit for _, _, unit in sorted(ranked)[:limit]}
    return [unit for unit in units if unit in chosen]


def _strata(parts: Sequence[Block], stratum: Callable[[str], str], seed: int) -> Iterator[list[Block]]:
    """Yield the blocks of each stratum (that of a block's first question); strata and blocks in seeded order."""
    queues: dict[str, list[Block]] = defaultdict(list)
    for block in sorted(parts, key=lambda block: order(block[0], seed)):
        queues[stratum(block[0])].append(block)
    for name in shuffled(list(queues), seed):
        yield queues[name]
