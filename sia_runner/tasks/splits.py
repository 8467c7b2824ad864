"""Cuts units into splits: seeded, stratified by answer; what belongs together is never cut apart.

Order comes from sha256 over (seed, unit), so it is the same in every process, on every machine and Python version.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

Block = list[str]


def order(unit: str, seed: object) -> bytes:
    return hashlib.sha256(f"{seed}|{unit}".encode()).digest()


def shuffled(units: Sequence[str], seed: object) -> list[str]:
    return sorted(units, key=lambda unit: order(unit, seed))


def blocks(units: Sequence[str], ties: Sequence[Callable[[str], str | None]]) -> list[Block]:
    """Units that must stay together: those for which some `tie` gives the same key, also over several steps."""
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
    together: dict[str, Block] = defaultdict(list)
    for unit in units:
        together[root(unit)].append(unit)
    return list(together.values())


def cut(
    parts: Sequence[Block], stratum: Callable[[str], str], shares: Mapping[str, float], *, seed: int, keep: int = 0
) -> tuple[dict[str, list[str]], list[str]]:
    """Give each name in `shares` its share of the units, stratum by stratum; returns (cut, rest).

    `keep` units of each stratum stay in the rest, so that a rare class is learned before it is asked. What rounding
    owes a name is carried to the next stratum, one unit at most: many tiny strata must not be paid for by one big one.
    """
    taken: dict[str, list[str]] = {name: [] for name in shares}
    rest: list[str] = []
    owed = dict.fromkeys(shares, 0.0)
    for queue in _strata(parts, stratum, seed):
        total = left = sum(map(len, queue))
        for name, share in shares.items():
            owed[name] += share * total
            while queue and owed[name] >= len(queue[-1]) / 2 and left - len(queue[-1]) >= keep:
                block = queue.pop()
                taken[name] += block
                owed[name] -= len(block)
                left -= len(block)
            owed[name] = min(owed[name], 1.0)
        rest += [unit for block in queue for unit in block]
    return taken, rest


def folds(parts: Sequence[Block], stratum: Callable[[str], str], count: int, *, seed: int) -> list[list[str]]:
    """Deal the blocks into `count` folds: even within each stratum first, then in all."""
    dealt: list[list[str]] = [[] for _ in range(count)]
    for queue in _strata(parts, stratum, seed):
        here = [0] * count
        for block in queue:
            fold = min(range(count), key=lambda k: (here[k], len(dealt[k])))
            dealt[fold] += block
            here[fold] += len(block)
    return dealt


def sample(units: Sequence[str], stratum: Callable[[str], str], fraction: float, *, seed: int) -> list[str]:
    """A stratified share of `units`, in their order; nested: a smaller share is part of a larger one."""
    chosen: set[str] = set()
    for queue in _strata([[unit] for unit in units], stratum, seed):
        chosen.update(unit for [unit] in queue[: math.ceil(fraction * len(queue))])
    return [unit for unit in units if unit in chosen]


def spread(units: Sequence[str], stratum: Callable[[str], str], most: int, *, seed: int) -> list[str]:
    """At most `most` units that give as many strata as possible two units, then three, four, ...; in their order."""
    ranked = [
        (max(rank, 1), place, unit)
        for place, queue in enumerate(_strata([[unit] for unit in units], stratum, seed))
        for rank, [unit] in enumerate(queue)
    ]
    chosen = {unit for _, _, unit in sorted(ranked)[:most]}
    return [unit for unit in units if unit in chosen]


def _strata(parts: Sequence[Block], stratum: Callable[[str], str], seed: int) -> Iterator[list[Block]]:
    """The blocks of each stratum (that of a block's first unit); strata and blocks in seeded order."""
    queues: dict[str, list[Block]] = defaultdict(list)
    for block in sorted(parts, key=lambda block: order(block[0], seed)):
        queues[stratum(block[0])].append(block)
    for name in shuffled(list(queues), seed):
        yield queues[name]
