"""Scores and their intervals, the accept rules, and the correction of outcomes by failed model calls."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, stdev
from typing import Any, Protocol

from sia_runner.records import INFRASTRUCTURE_KINDS, CallFailures, Outcome, OutcomeKind, Score, Status
from sia_runner.stage_results import Verdict

Aggregate = Callable[[Sequence[Outcome]], float]

RESAMPLES = 1000
_ANSWERED = frozenset({OutcomeKind.CORRECT, OutcomeKind.WRONG, OutcomeKind.PARTIAL})


def mean_value(outcomes: Sequence[Outcome]) -> float:
    """Return the mean value, in metric units."""
    return fmean(outcome.value for outcome in outcomes)


def wilson_interval(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share (Wilson 1927), without continuity correction."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def score_with_interval(outcomes: Sequence[Outcome], aggregate: Aggregate | None = None, seed: int = 0) -> Score:
    """Return the aggregate (None: the mean) over all `outcomes`, with a 95% interval.

    The interval is Wilson's if every value is 0 or 1 and the aggregate is the mean, else a percentile bootstrap over
    questions. Raises ValueError if there is no outcome.
    """
    n = len(outcomes)
    if n == 0:
        raise ValueError("no outcome to score")
    values = [outcome.value for outcome in outcomes]
    if aggregate is None and set(values) <= {0.0, 1.0}:
        return Score(fmean(values), wilson_interval(sum(values), n), n)
    ordered = sorted(_bootstrap(_statistic(aggregate, outcomes), n, seed))
    tail = round(0.025 * RESAMPLES)
    return Score((aggregate or mean_value)(outcomes), (ordered[tail], ordered[-1 - tail]), n)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The paired difference of two candidates on the same questions.

    `value` is the mean of new - old, in metric units; `lost` and `won` count the questions that the new one does worse
    and better; `p_value` is McNemar's exact test of these, two-sided (a sign test if values are not 0/1).
    """

    value: float
    standard_error: float
    lost: int
    won: int
    p_value: float


def paired_difference(new: Sequence[Outcome], old: Sequence[Outcome], higher_is_better: bool) -> PairedDifference:
    """Return the paired difference; raises ValueError if the two were not asked the same questions."""
    sign = 1 if higher_is_better else -1
    gains = [sign * (after.value - before.value) for after, before in zip(new, _align(new, old), strict=True)]
    losses = [-gain for gain in gains]
    p_value = min(1.0, 2 * min(_sign_test(gains), _sign_test(losses)))
    won, lost = (sum(value > 0 for value in values) for values in (gains, losses))
    return PairedDifference(sign * fmean(gains), _standard_error(gains), lost, won, p_value)


@dataclass(frozen=True, slots=True)
class CandidatePair:
    """The outcomes of a new candidate and of the incumbent on the same val questions, in the same order."""

    new: Sequence[Outcome]
    old: Sequence[Outcome]
    higher_is_better: bool
    level: float  # search.accept.level
    seed: int  # for resampling: the same verdict after a resume
    aggregate: Aggregate | None  # from outcomes to the metric; None: the mean

    @property
    def gains(self) -> list[float]:
        """The gain on each question, above 0 where the new candidate is better."""
        sign = 1 if self.higher_is_better else -1
        return [sign * (after.value - before.value) for after, before in zip(self.new, self.old, strict=True)]


class AcceptRule(Protocol):
    """An accept rule of the user's own, built from the keys of search.accept beside `rule` and `level`."""

    def decide(self, pair: CandidatePair) -> Verdict:
        """Return the verdict on ``pair.new``; some of its questions were answered. The same for the same pair."""
        ...


def accept_or_reject(
    new: Sequence[Outcome],
    old: Sequence[Outcome] | None,
    rule: str | AcceptRule,
    level: float,
    higher_is_better: bool,
    seed: int,
    aggregate: Aggregate | None = None,
) -> Verdict:
    """Compare two candidates on the same val questions, question by question.

    - ladder: the gain must exceed its own standard error (Blum & Hardt 2015, parameter-free), which bounds how far
      repeated selection can overfit val; with one question any gain is enough.
    - mcnemar: exact one-sided test on the questions that only one of the two got right (a sign test where values are
      not 0/1), at significance `level`.
    - bootstrap: one-sided paired bootstrap at significance `level`.
    - an AcceptRule decides by itself.

    `aggregate` None is the mean; mcnemar works with no other.
    A candidate that answered no question is never accepted; the first that answers one (`old` None) is.
    Raises ValueError if the two were not asked the same questions.
    """
    if not any(outcome.kind in _ANSWERED for outcome in new):
        return Verdict(Status.REJECTED, "no question was answered", 0.0, 0.0)
    if old is None:
        return Verdict(Status.ACCEPTED, "first scored candidate", 0.0, 0.0)
    pair = CandidatePair(new, _align(new, old), higher_is_better, level, seed, aggregate)
    return _shipped_verdict(pair, rule) if isinstance(rule, str) else rule.decide(pair)


def _shipped_verdict(pair: CandidatePair, rule: str) -> Verdict:
    new, old, aggregate, gains = pair.new, pair.old, pair.aggregate, pair.gains
    sign = 1 if pair.higher_is_better else -1
    if rule == "mcnemar":
        if aggregate is not None:
            raise ValueError("search.accept.rule=mcnemar compares means; this metric takes ladder or bootstrap")
        return _make_verdict(fmean(gains), _standard_error(gains), sign, gains, pair.level, _sign_test(gains))
    if rule == "ladder" and aggregate is None:
        return _make_verdict(fmean(gains), _standard_error(gains), sign, gains)
    new_statistic, old_statistic = _statistic(aggregate, new), _statistic(aggregate, old)
    resampled = _bootstrap(lambda chosen: sign * (new_statistic(chosen) - old_statistic(chosen)), len(new), pair.seed)
    gain = sign * ((aggregate or mean_value)(new) - (aggregate or mean_value)(old))
    if rule == "ladder":
        return _make_verdict(gain, stdev(resampled), sign, gains)
    p_value = (1 + sum(value <= 0 for value in resampled)) / (1 + len(resampled))
    return _make_verdict(gain, stdev(resampled), sign, gains, pair.level, p_value)


def _align(new: Sequence[Outcome], old: Sequence[Outcome]) -> list[Outcome]:
    """Return the old outcomes in the order of the new ones."""
    by_unit = {outcome.unit: outcome for outcome in old}
    if by_unit.keys() != {outcome.unit for outcome in new} or len(old) != len(new):
        raise ValueError("the two candidates were not asked the same questions")
    return [by_unit[outcome.unit] for outcome in new]


def _make_verdict(
    gain: float, error: float, sign: int, gains: Sequence[float], level: float = 0.0, p_value: float | None = None
) -> Verdict:
    """Accept a gain above its standard error or, given a p value, a gain with p below the level."""
    accepted = gain > 0 and (gain > error if p_value is None else p_value < level)
    figures = f"{sign * gain:+.3f} ± {error:.3f} (n={len(gains)}{'' if p_value is None else f', p={p_value:.3g}'})"
    if accepted:
        word = "gain"
    elif not any(gains):
        word = "no change"
    elif gain < -error:
        word = "worse:"
    else:
        word = "tie within noise:" if p_value is None else "not significant:"
    status = Status.ACCEPTED if accepted else Status.REJECTED
    return Verdict(status, f"{word} {figures}", sign * gain, error, p_value)


def _standard_error(gains: Sequence[float]) -> float:
    """Return the standard error of the mean of paired differences; 0 for one question."""
    return stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0


def _sign_test(gains: Sequence[float]) -> float:
    """Return the exact probability of at least as many wins if a win and a loss were equally likely."""
    won = sum(gain > 0 for gain in gains)
    decided = won + sum(gain < 0 for gain in gains)
    return sum(math.comb(decided, k) for k in range(won, decided + 1)) / 2**decided


def _statistic(aggregate: Aggregate | None, outcomes: Sequence[Outcome]) -> Callable[[Any], float]:
    """Return a function: the aggregate over the outcomes at given positions (a numpy array of int)."""
    import numpy as np

    if aggregate is not None:
        return lambda positions: aggregate([outcomes[k] for k in positions])
    values = np.array([outcome.value for outcome in outcomes])
    return lambda positions: float(values[positions].mean())


def _bootstrap(statistic: Callable[[Any], float], n: int, seed: int) -> list[float]:
    """Return `statistic` of RESAMPLES samples of n questions, drawn with replacement."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return [statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)]


_SOLVED = frozenset({OutcomeKind.CORRECT, OutcomeKind.PARTIAL})
# A truncated answer explains these kinds. A crash or a timeout keeps its kind.
_EXPLAINED_BY_TRUNCATION = frozenset({OutcomeKind.WRONG, OutcomeKind.NO_ANSWER, OutcomeKind.INVALID_FORMAT})
_REASONS = {
    OutcomeKind.RATE_LIMITED: "the provider did not answer",
    OutcomeKind.BUDGET: "the budget was spent",
    OutcomeKind.VERIFIER_ERROR: "it could not be verified",
}


def correct_outcomes(outcomes: Iterable[Outcome], faults: CallFailures, keys: Mapping[str, str]) -> list[Outcome]:
    """Return the outcomes of one run, corrected by what the gateway saw. `keys` maps the id in the view to the unit.

    A question whose last call failed becomes `rate_limited` or `budget`, unless it was solved all the same. A question
    whose last answer was cut becomes `truncated` instead of wrong or unanswered; it keeps its value, since a cut answer
    counts against the harness. If failed calls named no question, they may belong to any unsolved one: all unsolved
    questions take that kind, so that the candidate is unscored rather than wrongly rejected.
    """
    kind_of_unit = {keys[question]: kind for question, kind in faults.questions.items() if question in keys}
    untagged_kind = _most_frequent(faults.untagged)
    return [_corrected(outcome, kind_of_unit.get(outcome.unit), untagged_kind) for outcome in outcomes]


def infrastructure_reason(kind: OutcomeKind) -> str:
    """Return an infrastructure failure in words; a message may not quote a prediction, which may be one of val."""
    return _REASONS[kind]


def _corrected(outcome: Outcome, own_kind: OutcomeKind | None, untagged_kind: OutcomeKind | None) -> Outcome:
    if outcome.kind in _SOLVED or outcome.kind in INFRASTRUCTURE_KINDS:
        return outcome
    if own_kind is not None and own_kind in INFRASTRUCTURE_KINDS:
        return _with_failed_call(outcome, own_kind, "for this question")
    if untagged_kind is not None:
        return _with_failed_call(outcome, untagged_kind, "that named no question")
    if own_kind is OutcomeKind.TRUNCATED and outcome.kind in _EXPLAINED_BY_TRUNCATION:
        return replace(outcome, kind=OutcomeKind.TRUNCATED)
    return outcome


def _with_failed_call(outcome: Outcome, kind: OutcomeKind, which: str) -> Outcome:
    return replace(outcome, kind=kind, prediction=f"(a model call {which} failed: {infrastructure_reason(kind)})")


def _most_frequent(untagged: Mapping[OutcomeKind, int]) -> OutcomeKind | None:
    """Return the most frequent infrastructure failure; of several equally frequent ones the first in the enum."""
    counts = {kind: untagged.get(kind, 0) for kind in OutcomeKind if kind in INFRASTRUCTURE_KINDS}
    kind = max(counts, key=lambda kind: counts[kind])
    return kind if counts[kind] > 0 else None


def leaderboard_lines(grade: Mapping[str, Any] | None) -> list[str]:
    """Return the lines for the official grade of a test result (see Task.official_grade); none if the task has none."""
    if not grade:
        return []
    grader = "mlebench's grader" if grade["graded_by"] == "mlebench" else "our own grader"
    if grade["score"] is None:
        return [grade["note"]]
    line = f"{grader}: {grade['score']:.5f}; {_medal_text(grade)}"
    return [line, grade["note"]] if grade["note"] else [line]


def _medal_text(grade: Mapping[str, Any]) -> str:
    if "medal" not in grade:
        return "no leaderboard is at hand, so no medal"
    medal = f"{grade['medal']} medal" if grade["medal"] else "no medal"
    position = "above" if grade["above_median"] else "not above"
    marks = ", ".join(f"{name} {value:.5f}" for name, value in grade["thresholds"].items())
    return f"{medal}, {position} the median of {grade['teams']:,} teams ({marks})"
