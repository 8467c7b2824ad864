"""Chooses the parent of a proposal and detects a plateau: pure functions of the history."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from random import Random
from statistics import fmean, pstdev

from sia_runner.config.experiment import SearchConfig
from sia_runner.records import Lever, PastGeneration, Status

# Steepness of the sigmoid: one unit above the midpoint counts 7.4 times as much as one unit below it.
_STEEPNESS = 2.0


def choose_parent(
    search: SearchConfig,
    history: Sequence[PastGeneration],
    incumbent: int | None,
    seed: str,
    higher_is_better: bool,
) -> int | None:
    """Return the generation that a proposal extends: the incumbent, the newest scored candidate, or one drawn by score.

    None while there is none. The same `seed` draws the same from the same history.
    """
    scored = [past for past in history if past.val is not None]
    if search.name == "greedy" or not scored:
        return incumbent
    if search.name == "last":
        return scored[-1].n
    chances = archive_weights(history, search.novelty_weight, higher_is_better)
    return Random(seed).choices(list(chances), list(chances.values()))[0]


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
