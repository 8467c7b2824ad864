"""Scores and their intervals, the accept rules, and the correction of outcomes by failed model calls."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, stdev
from typing import Any, Protocol

from sia_runner.records import INFRASTRUCTURE_KINDS, CallFailures, Outcome, OutcomeKind, Score, Status
from sia_runner.stage_results import Verdict

Aggregate = Callable[[Sequence[Outcome]], float]

_RESAMPLES = 1000
ANSWERED = frozenset({OutcomeKind.CORRECT, OutcomeKind.WRONG, OutcomeKind.PARTIAL})


class AggregateError(ValueError):
    """A verifier's aggregate raised, or gave no finite number. The message is one line without any answer."""


def checked_aggregate(aggregate: Aggregate, name: str) -> Aggregate:
    """Return the same function, which raises AggregateError instead of whatever the task's own code does."""

    def checked(outcomes: Sequence[Outcome]) -> float:
        try:
            value: Any = aggregate(outcomes)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the task's own code raises
            raise AggregateError(f"aggregate() of {name} raised {type(error).__name__}") from None
        with suppress(TypeError, OverflowError, ValueError):  # raised for what is no number
            if math.isfinite(value):
                return float(value)
        shown = value if isinstance(value, float) else type(value).__name__  # a text may hold answers
        raise AggregateError(f"aggregate() of {name} gave {shown} where a finite number is needed")

    return checked


def mean_value(outcomes: Sequence[Outcome]) -> float:
    """Return the mean value, in metric units."""
    return fmean(outcome.value for outcome in outcomes)


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95% score interval of a share (Wilson 1927), without continuity correction."""
    z = NormalDist().inv_cdf(0.975)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def score_with_interval(outcomes: Sequence[Outcome], aggregate: Aggregate | None = None, seed: int = 0) -> Score:
    """Return the aggregate (None: the mean) over all `outcomes` with a 95% interval. Raises AggregateError."""
    n = len(outcomes)
    if n == 0:
        raise ValueError("no outcome to score")
    values = [outcome.value for outcome in outcomes]
    if aggregate is None and set(values) <= {0.0, 1.0}:
        return Score(fmean(values), wilson_interval(sum(values), n), n)
    value = (aggregate or mean_value)(outcomes)
    # the percentiles of a bootstrap over questions
    # percentiles of a bootstrap over questions
    ordered = sorted(filter(math.isfinite, _bootstrap(aggregate, outcomes, seed))) or [value]
    tail = round(0.025 * len(ordered))
    return Score(value, (ordered[tail], ordered[-1 - tail]), n)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The paired difference of two candidates on the same questions."""

    standard_error: float
    lost: int  # questions that the new one does worse
    won: int
    p_value: float  # McNemar's exact test of lost and won, two-sided (a sign test if values are not 0/1)


def paired_difference(new: Sequence[Outcome], old: Sequence[Outcome], higher_is_better: bool) -> PairedDifference:
    """Return the paired difference; raises ValueError if the two were not asked the same questions."""
    gains = [after.value - before.value for after, before in zip(new, _align(new, old), strict=True)]
    won, lost = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    if not higher_is_better:
        won, lost = lost, won
    p_value = min(1.0, 2 * min(_sign_test(won, lost), _sign_test(lost, won)))
    return PairedDifference(_standard_error(gains), lost, won, p_value)


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
    """Compare two candidates on the same val questions by a rule of docs/architecture.md#acceptance, or the user's own.

    `aggregate` None is the mean. A candidate that answered no question is never accepted; the first that answers one
    (`old` None) is. Raises ValueError if the two were not asked the same questions.
    """
    if not any(outcome.kind in ANSWERED for outcome in new):
        return Verdict(Status.REJECTED, "no question was answered", 0.0, 0.0)
    if old is None:
        return Verdict(Status.ACCEPTED, "first scored candidate", 0.0, 0.0)
    pair = CandidatePair(new, _align(new, old), higher_is_better, level, seed, aggregate)
    return _shipped_verdict(pair, rule) if isinstance(rule, str) else rule.decide(pair)


def _shipped_verdict(pair: CandidatePair, rule: str) -> Verdict:
    new, old, aggregate, gains = pair.new, pair.old, pair.aggregate, pair.gains
    sign, p_value = 1 if pair.higher_is_better else -1, None
    if rule == "mcnemar" and aggregate is not None:
        raise ValueError("search.accept.rule=mcnemar compares means; this metric takes ladder or bootstrap")
    if rule == "mcnemar" or (rule == "ladder" and aggregate is None):
        gain, error = fmean(gains), _standard_error(gains)
        if rule == "mcnemar":
            p_value = _sign_test(sum(value > 0 for value in gains), sum(value < 0 for value in gains))
    else:
        paired = zip(_bootstrap(aggregate, new, pair.seed), _bootstrap(aggregate, old, pair.seed), strict=True)
        differences = (sign * (after - before) for after, before in paired)
        resampled = list(filter(math.isfinite, differences))
        gain = sign * ((aggregate or mean_value)(new) - (aggregate or mean_value)(old))
        error = stdev(resampled) if len(resampled) > 1 else math.inf
        if rule != "ladder":
            p_value = (1 + sum(value <= 0 for value in resampled)) / (1 + len(resampled))
    accepted = gain > 0 and (gain > error if p_value is None else p_value < pair.level)
    if accepted:
        word = "gain"
    elif not any(gains):
        word = "no change"
    elif gain < -error:
        word = "worse:"
    else:
        word = "tie within noise:" if p_value is None else "not significant:"
    figures = f"{sign * gain:+.3f} ± {error:.3f} (n={len(gains)}{'' if p_value is None else f', p={p_value:.3g}'})"
    status = Status.ACCEPTED if accepted else Status.REJECTED
    return Verdict(status, f"{word} {figures}", sign * gain, error, p_value)


def _align(new: Sequence[Outcome], old: Sequence[Outcome]) -> list[Outcome]:
    by_unit = {outcome.unit: outcome for outcome in old}
    if by_unit.keys() != {outcome.unit for outcome in new} or len(old) != len(new):
        raise ValueError("the two candidates were not asked the same questions")
    return [by_unit[outcome.unit] for outcome in new]


def _standard_error(gains: Sequence[float]) -> float:
    """Return the standard error of the mean of paired differences; 0 for one question, where any gain is enough."""
    return stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0


def _sign_test(won: int, lost: int) -> float:
    """Return the exact probability of at least as many wins if a win and a loss were equally likely (McNemar)."""
    decided = won + lost
    return sum(math.comb(decided, k) for k in range(won, decided + 1)) / 2**decided


def _bootstrap(aggregate: Aggregate | None, outcomes: Sequence[Outcome], seed: int) -> list[float]:
    """Return the aggregate (None: the mean) of samples drawn with replacement, or NaN where a sample has none.

    The same seed draws the same positions, so that samples of two candidates are paired.
    """
    import numpy as np

    rng, n = np.random.default_rng(seed), len(outcomes)
    samples = (rng.integers(0, n, n) for _ in range(_RESAMPLES))
    if aggregate is None:
        values = np.array([outcome.value for outcome in outcomes])
        return [float(values[positions].mean()) for positions in samples]
    resampled: list[float] = []
    for positions in samples:
        try:
            resampled.append(aggregate([outcomes[int(k)] for k in positions]))
        except AggregateError:  # such as for a sample in which all values are equal
            resampled.append(math.nan)
    return resampled


# A cut answer, or one that was not waited for, explains these kinds. A crash keeps its kind.
_EXPLAINED = frozenset({OutcomeKind.WRONG, OutcomeKind.NO_ANSWER, OutcomeKind.INVALID_FORMAT})
# a message may not quote a prediction, which may be one of val
_REASONS = {
    OutcomeKind.KILLED: "the machine ran out of memory",
    OutcomeKind.RATE_LIMITED: "the provider did not answer",
    OutcomeKind.REFUSED: "the provider refused it",
    OutcomeKind.BUDGET: "the budget was spent",
    OutcomeKind.VERIFIER_ERROR: "it could not be verified",
}


def correct_outcomes(outcomes: Iterable[Outcome], faults: CallFailures, keys: Mapping[str, str]) -> list[Outcome]:
    """Return the outcomes of one run, corrected by what the gateway saw. `keys` maps the id in the view to the unit.

    A question of which a request was never answered takes the kind of that failure, unless it is fully solved. One
    whose last answer was cut, or not waited for, becomes `truncated` or `timeout`, but keeps its value: that counts
    against the harness. Failed calls that named no question may belong to any unsolved one: all of these take the most
    frequent kind, so that the candidate is unscored rather than wrongly rejected.
    """
    tagged, untagged = dict[str, OutcomeKind](), Counter(faults.untagged)
    for question, kind in faults.questions.items():
        if question in keys:
            tagged[keys[question]] = kind
        elif faults.words is not None:
            untagged[kind] += 1
    solved = {OutcomeKind.CORRECT} if faults.words is not None else {OutcomeKind.CORRECT, OutcomeKind.PARTIAL}
    # of equally frequent ones the first in the enum
    common = max(OutcomeKind, key=lambda kind: untagged[kind] if kind in INFRASTRUCTURE_KINDS else 0)
    notes = {kind: f": {text}" for kind, text in (faults.words or {}).items()}

    def corrected(outcome: Outcome) -> Outcome:
        own_kind = tagged.get(outcome.unit)
        if outcome.kind in solved or outcome.kind in INFRASTRUCTURE_KINDS:
            return outcome
        if own_kind is not None and own_kind in INFRASTRUCTURE_KINDS:
            kind, which = own_kind, "for this question"
        elif common in INFRASTRUCTURE_KINDS and untagged[common]:
            kind, which = common, "that named no question"
        elif own_kind in (OutcomeKind.TRUNCATED, OutcomeKind.TIMEOUT) and outcome.kind in _EXPLAINED:
            outcome = replace(outcome, kind=own_kind)
            return _with_note(outcome, notes) if own_kind is OutcomeKind.TIMEOUT else outcome
        else:
            known = own_kind is outcome.kind or untagged[outcome.kind] or outcome.kind is OutcomeKind.TIMEOUT
            return _with_note(outcome, notes) if known else outcome
        return replace(outcome, kind=kind, prediction=f"{_NOTE} {which} failed: {_REASONS[kind]}{notes.get(kind, '')})")

    return [corrected(outcome) for outcome in outcomes]


_NOTE = "(a model call"


def _with_note(outcome: Outcome, notes: Mapping[OutcomeKind, str]) -> Outcome:
    unanswered = outcome.kind in notes and outcome.kind in (OutcomeKind.NO_ANSWER, OutcomeKind.TIMEOUT)
    return replace(outcome, prediction=f"{_NOTE} got no answer{notes[outcome.kind]})") if unanswered else outcome


def unanswered_note(outcomes: Sequence[Outcome]) -> str:
    """Return how many questions got no answer because of their model calls, and why; else an empty text."""
    noted = [o for o in outcomes if o.kind not in INFRASTRUCTURE_KINDS and o.prediction.startswith(_NOTE)]
    return f"{len(noted)} of {len(outcomes)} {noted[0].kind} {noted[0].prediction}" if noted else ""


def leaderboard_lines(grade: Mapping[str, Any] | None) -> list[str]:
    """Return the lines for the official grade of a test result (see Task.official_grade); none if the task has none."""
    if not grade:
        return []
    if grade["score"] is None:
        return [grade["note"]]
    grader = "mlebench's grader" if grade["graded_by"] == "mlebench" else "our own grader"
    medal = "no leaderboard is at hand, so no medal"
    if "medal" in grade:
        marks = ", ".join(f"{name} {value:.5f}" for name, value in grade["thresholds"].items())
        position = "above" if grade["above_median"] else "not above"
        medal = f"{grade['medal']} medal" if grade["medal"] else "no medal"
        medal += f", {position} the median of {grade['teams']:,} teams ({marks})"
    line = f"{grader}: {grade['score']:.5f}; {medal}"
    return [line, grade["note"]] if grade["note"] else [line]
