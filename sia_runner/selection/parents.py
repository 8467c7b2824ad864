"""Chooses the parents of a proposal, the best of parallel ones, and detects a plateau: pure functions of history."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from random import Random
from statistics import fmean, pstdev

from sia_runner.config.experiment import SearchConfig
from sia_runner.records import Lever, PastGeneration, Status, Trial
from sia_runner.selection.islands import island_leader
from sia_runner.selection.pareto import DevValues, draw_parents, group_means

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
