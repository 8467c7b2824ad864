"""Chooses the parents of a proposal, the best of parallel ones, and detects a plateau: pure functions of history."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from random import Random
from statistics import fmean, pstdev

from sia_runner.config.experiment import SearchConfig
from sia_runner.records import Lever, PastGeneration, Status, Trial

DevValues = Mapping[str, float]  # dev question, or group of them -> a candidate's value, in metric units

# Steepness of the sigmoid: one unit above the midpoint counts 7.4 times as much as one unit below it.
_STEEPNESS = 2.0


@dataclass(frozen=True, slots=True)
class ParentChoice:
    """The generation that a proposal extends (None while there is none), and one that it merges with it, or None."""

    parent: int | None
    partner: int | None = None


@dataclass(frozen=True, slots=True)
class ParentSearch:
    """The choice of parents by the group `search` of a run with this seed."""

    search: SearchConfig
    seed: int
    higher_is_better: bool
    dev_values: Callable[[int], DevValues]  # of a scored candidate's own questions; read for `pareto` alone

    def choose(
        self, n: int, history: Sequence[PastGeneration], incumbent: int | None, sibling: int = 0
    ) -> ParentChoice:
        """Return the parents of generation `n`'s proposal. The same from the same history, however often."""
        search, better, seed = self.search, self.higher_is_better, f"{self.seed}:{n}:{sibling}"
        scored = [past.n for past in history if past.val is not None]
        if search.name == "greedy" or not scored:
            return ParentChoice(incumbent)
        match search.name:
            case "last":
                return ParentChoice(scored[-1])
            case "archive":
                chances = archive_weights(history, search.novelty_weight, better)
                return ParentChoice(Random(seed).choices(list(chances), list(chances.values()))[0])
            case "islands":
                leader = island_leader(history, n, search.islands, search.migrate_every, better)
                return ParentChoice(incumbent if leader is None else leader)
            case "pareto":
                groups = {k: group_means(self.dev_values(k), search.dev_groups, self.seed) for k in scored}
                if not any(groups.values()):  # the task has no dev questions to compare on
                    return ParentChoice(incumbent)
                return ParentChoice(*draw_parents(groups, search.merge_fraction, better, Random(seed)))


def best_trial(trials: Mapping[int, Trial], higher_is_better: bool) -> int:
    """Return which of parallel proposals is best on dev: of equal ones the first; a failed one only if all failed."""
    sign = 1 if higher_is_better else -1
    return max(trials, key=lambda k: (not trials[k].failure, sign * trials[k].value, -k))


def archive_weights(history: Sequence[PastGeneration], novelty: float, higher_is_better: bool) -> dict[int, float]:
    """Return the weight of each scored candidate in the archive, by its score and its number of children.

    As in the Darwin Goedel Machine (Zhang et al. 2025): sigmoid(score) / (1 + children), the second factor to the power
    of `novelty`. Its sigmoid is made for scores in [0, 1]; here the midpoint is the mean of all scores, and the unit is
    their spread or, where that is larger, the noise of one score: so any metric works, and noise chooses no parents.
    """
    scored = {past.n: past.val for past in history if past.val is not None}
    if not scored:
        return {}
    values = [score.value for score in scored.values()]
    noise = fmean((score.ci95[1] - score.ci95[0]) / 2 for score in scored.values())
    unit, middle, sign = max(pstdev(values), noise), fmean(values), 1.0 if higher_is_better else -1.0
    children = Counter(parents_by_generation(history).values())
    merits = {n: sign * (score.value - middle) / unit if unit else 0.0 for n, score in scored.items()}
    return {n: 1 / (1 + math.exp(-_STEEPNESS * merit)) / (1 + children[n]) ** novelty for n, merit in merits.items()}


# Islands: lineages that do not see one another, but for the leaders that migrate from time to time


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


# The Pareto front of dev questions, as in GEPA (Agrawal et al. 2025), with single questions or groups of them


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


def better_groups(values: DevValues, reference: DevValues, higher_is_better: bool) -> list[str]:
    """Return the groups (or questions) on which `values` are better than the `reference`."""
    sign = 1 if higher_is_better else -1
    return [group for group, value in values.items() if sign * value > sign * reference[group]]


# What the history says


def parents_by_generation(history: Sequence[PastGeneration]) -> dict[int, int | None]:
    """Return the parent of each candidate; where it was not noted, the incumbent of its time."""
    parents: dict[int, int | None] = {}
    incumbent = None
    for past in history:
        parents[past.n] = past.parent or incumbent
        if past.status == Status.ACCEPTED:
            incumbent = past.n
    return parents


def verdicts_available(n: int, in_flight: int) -> int:
    """Return on how many verdicts proposal `n` is based: all but those of the `in_flight` - 1 candidates before it."""
    return 0 if n == 1 else max(1, n - in_flight)


def plateau_reason(search: SearchConfig, history: Sequence[PastGeneration]) -> str:
    """Return the reason why the run should stop now, as one line; empty when it should not."""
    patience = search.patience
    if patience and len(history) >= patience and all(past.status != Status.ACCEPTED for past in history[-patience:]):
        return f"no candidate was accepted in the last {patience} generations (search.patience)"
    return ""


def plateau_length(history: Sequence[PastGeneration]) -> int:
    """Return the number of latest proposals in a row that changed only the harness and were not accepted.

    After a weights update it is the harness's turn again. An unscored candidate says nothing and is passed over.
    """
    scored = reversed([past for past in history if past.status != Status.UNSCORED])
    row = takewhile(lambda past: past.lever is Lever.HARNESS and past.status != Status.ACCEPTED, scored)
    return sum(1 for _ in row)
