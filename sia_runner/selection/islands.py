"""Search on islands: lineages that do not see one another, but for the leaders that migrate from time to time."""

from collections.abc import Sequence

from sia_runner.records import PastGeneration


def island_of(n: int, islands: int) -> int:
    """Return the island of generation `n`: they take turns. The first generation lives on all of them."""
    return (n - 2) % islands


def island_leader(
    history: Sequence[PastGeneration], n: int, islands: int, migrate_every: int, higher_is_better: bool
) -> int | None:
    """Return the best scored candidate on the island of generation `n`; None while the island is empty.

    After every `migrate_every` generations each island gets the leader of the one before it, in a ring. Of equal
    candidates the older one leads.
    """
    sign, members = 1 if higher_is_better else -1, [dict[int, float]() for _ in range(islands)]
    for past in history:
        if past.val is not None:
            homes = range(islands) if past.n == 1 else [island_of(past.n, islands)]
            for home in homes:
                members[home][past.n] = sign * past.val.value
        if past.n > 1 and (past.n - 1) % migrate_every == 0:
            leaders = [_leader(island) for island in members]
            for home, leader in enumerate(leaders):
                if leader is not None:
                    members[(home + 1) % islands][leader] = members[home][leader]
    return _leader(members[island_of(n, islands)])


def _leader(values: dict[int, float]) -> int | None:
    return max(values, key=lambda n: (values[n], -n), default=None)
