"""Means over seeds, corrections for several tests, and the wording of verdicts."""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05
TIE, UNTESTED = "tie", "not tested"


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of one value per seed. `sd` and `ci95` (Student's t) need two seeds or more."""

    value: float
    n: int
    sd: float | None = None
    ci95: tuple[float, float] | None = None


def mean(values: Sequence[float]) -> Mean | None:
    """Return the mean with its standard deviation and interval, or None without a value."""
    if not values:
        return None
    middle, n = statistics.fmean(values), len(values)
    if n == 1:
        return Mean(middle, 1)
    from scipy.special import stdtrit  # scipy.stats would load for half a second

    sd = statistics.stdev(values)
    half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return Mean(middle, n, sd, (middle - half, middle + half))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the p-values adjusted for their number (Holm 1979). None stays None and does not count."""
    ordered = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, at) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p))
        adjusted[at] = largest
    return adjusted


def over_questions(differences: Sequence[Mapping[str, float]]) -> Mean | None:
    """Return the mean over seeds and questions with its normal 95% interval over questions.

    `differences` has one mapping a seed, question -> new - old. Return None if they are not of the same questions, or
    of fewer than two.
    """
    if (
        not differences
        or any(by_unit.keys() != differences[0].keys() for by_unit in differences)
        or len(differences[0]) < 2
    ):
        return None
    by_question = [statistics.fmean(by_unit[unit] for by_unit in differences) for unit in differences[0]]
    middle, n = statistics.fmean(by_question), len(by_question)
    sd = statistics.stdev(by_question)
    half = statistics.NormalDist().inv_cdf(0.975) * sd / math.sqrt(n)
    return Mean(middle, n, sd, (middle - half, middle + half))


def verdict(gain: float, p_value: float | None, new: str, old: str) -> str:
    """Return the verdict on one pair. `gain`: above 0 if the new one is better. Without p nothing is claimed."""
    if p_value is None:
        return UNTESTED
    if p_value >= LEVEL:
        return TIE
    return f"{new if gain > 0 else old} better"


def verdict_of_intervals(intervals: Sequence[tuple[float, float]], sign: int, new: str, old: str) -> str:
    """Return "better" only if every interval excludes 0 on the same side."""
    ends = [sign * end for both in intervals for end in both]
    if min(ends) > 0:
        return f"{new} better"
    return f"{old} better" if max(ends) < 0 else TIE


def per_seed(values: Sequence[tuple[Hashable, float]]) -> Mean | None:
    """Return the mean of ``(seed, value)`` pairs. Runs of the same seed count as one value, their mean."""
    seeds = dict.fromkeys(seed for seed, _ in values)
    return mean([statistics.fmean(value for other, value in values if other == seed) for seed in seeds])
