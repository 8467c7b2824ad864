"""Model calls that failed at the provider do not count as wrong answers of the harness."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from sia_runner.records import INFRASTRUCTURE, Faults, Outcome, OutcomeKind

_SOLVED = frozenset({OutcomeKind.CORRECT, OutcomeKind.PARTIAL})
# A truncated answer explains these kinds. A crash or a timeout keeps its kind.
_EXPLAINED_BY_TRUNCATION = frozenset({OutcomeKind.WRONG, OutcomeKind.NO_ANSWER, OutcomeKind.INVALID_FORMAT})
_REASONS = {
    OutcomeKind.RATE_LIMITED: "the provider did not answer",
    OutcomeKind.BUDGET: "the budget was spent",
    OutcomeKind.VERIFIER_ERROR: "it could not be verified",
}


def fault_outcomes(outcomes: Iterable[Outcome], faults: Faults, keys: Mapping[str, str]) -> list[Outcome]:
    """Return the outcomes of one run, corrected by what the gateway saw. `keys` maps the id in the view to the unit.

    A question whose last call failed becomes `rate_limited` or `budget`, unless it was solved all the same. A question
    whose last answer was cut becomes `truncated` instead of wrong or unanswered; it keeps its value, since a cut answer
    counts against the harness. If failed calls named no question, they may belong to any unsolved one: all unsolved
    questions take that kind, so that the candidate is unscored rather than wrongly rejected.
    """
    kind_of_unit = {keys[question]: kind for question, kind in faults.questions.items() if question in keys}
    untagged_kind = _most_frequent(faults.untagged)
    return [_corrected(outcome, kind_of_unit.get(outcome.unit), untagged_kind) for outcome in outcomes]


def why(kind: OutcomeKind) -> str:
    """Return an infrastructure failure in words; a message may not quote a prediction, which may be one of val."""
    return _REASONS[kind]


def _corrected(outcome: Outcome, own_kind: OutcomeKind | None, untagged_kind: OutcomeKind | None) -> Outcome:
    if outcome.kind in _SOLVED or outcome.kind in INFRASTRUCTURE:
        return outcome
    if own_kind is not None and own_kind in INFRASTRUCTURE:
        return _failed(outcome, own_kind, "for this question")
    if untagged_kind is not None:
        return _failed(outcome, untagged_kind, "that named no question")
    if own_kind is OutcomeKind.TRUNCATED and outcome.kind in _EXPLAINED_BY_TRUNCATION:
        return replace(outcome, kind=OutcomeKind.TRUNCATED)
    return outcome


def _failed(outcome: Outcome, kind: OutcomeKind, which: str) -> Outcome:
    return replace(outcome, kind=kind, prediction=f"(a model call {which} failed: {why(kind)})")


def _most_frequent(untagged: Mapping[OutcomeKind, int]) -> OutcomeKind | None:
    """Return the most frequent infrastructure failure; of several equally frequent ones the first in the enum."""
    counts = {kind: untagged.get(kind, 0) for kind in OutcomeKind if kind in INFRASTRUCTURE}
    kind = max(counts, key=lambda kind: counts[kind])
    return kind if counts[kind] > 0 else None
