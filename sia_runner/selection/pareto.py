"""Search on the Pareto front of dev questions: a candidate survives while it is best on some group of them.

As in GEPA (Agrawal et al. 2025), with single questions or groups of them. Only the parents of a proposal are chosen
here; what becomes the incumbent, val alone decides.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from random import Random
from statistics import fmean

DevValues = Mapping[str, float]  # dev question, or group of them -> a candidate's value, in metric units


def group_means(values: DevValues, groups: int | None, seed: int) -> dict[str, float]:
    """Return the mean value of each group. `groups` None: each question is one; else they are dealt at random."""
    if groups is None:
        return dict(values)
    units = sorted(values)
    Random(f"{seed}:groups").shuffle(units)
    dealt: dict[str, list[float]] = defaultdict(list)
    for position, unit in enumerate(units):
        dealt[str(position % groups)].append(values[unit])
    return {group: fmean(members) for group, members in dealt.items()}


def pareto_front(candidates: Mapping[int, DevValues], higher_is_better: bool) -> dict[int, frozenset[str]]:
    """Return the groups on which each candidate is best or as good as the best, without candidates that add none.

    A candidate adds none if the others are best on all of its groups too: those go first that are worst in all, of
    equal ones the newest. The groups must be the same for all.
    """
    sign = 1 if higher_is_better else -1
    best: dict[str, float] = {}
    for values in candidates.values():
        for group, value in values.items():
            best[group] = max(best.get(group, sign * value), sign * value)
    front = {
        n: frozenset(group for group, value in values.items() if sign * value == best[group])
        for n, values in candidates.items()
    }
    holders = Counter(group for groups in front.values() for group in groups)
    for n in sorted(front, key=lambda n: (sign * fmean(candidates[n].values()), -n)):
        if all(holders[group] > 1 for group in front[n]):
            holders.subtract(front.pop(n))
    return front


def front_weights(front: Mapping[int, frozenset[str]]) -> dict[int, float]:
    """Return how likely each survivor is extended: its groups, each shared by those that are best on it."""
    holders = Counter(group for groups in front.values() for group in groups)
    return {n: sum(1 / holders[group] for group in groups) for n, groups in front.items()}


def draw_parents(
    candidates: Mapping[int, DevValues], merge_fraction: float, higher_is_better: bool, rng: Random
) -> tuple[int, int | None]:
    """Draw the survivor that a proposal extends and, in `merge_fraction` of the cases, one to merge with it.

    The second one is drawn by the number of groups on which it is better than the first; None where none is.
    """
    weights = front_weights(pareto_front(candidates, higher_is_better))
    parent = rng.choices(list(weights), list(weights.values()))[0]
    if rng.random() >= merge_fraction:
        return parent, None
    better = {n: len(better_groups(candidates[n], candidates[parent], higher_is_better)) for n in weights}
    others = [n for n, count in better.items() if count]
    return parent, rng.choices(others, [better[n] for n in others])[0] if others else None


def better_groups(one: DevValues, other: DevValues, higher_is_better: bool) -> list[str]:
    """Return the groups (or questions) on which `one` has a better value than `other`."""
    sign = 1 if higher_is_better else -1
    return [group for group, value in one.items() if sign * value > sign * other[group]]
