"""What failed at the provider is not the harness's fault: such questions are no wrong answers."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from sia_runner.records import INFRASTRUCTURE, Faults, Outcome, OutcomeKind

_EARNED = frozenset({OutcomeKind.CORRECT, OutcomeKind.PARTIAL})
# A cut answer explains these; a crash or a timeout stays what it is.
_CUT_SHORT = frozenset({OutcomeKind.WRONG, OutcomeKind.NO_ANSWER, OutcomeKind.INVALID_FORMAT})
_WHY = {
    OutcomeKind.RATE_LIMITED: "the provider did not answer",
    OutcomeKind.BUDGET: "the budget was spent",
    OutcomeKind.VERIFIER_ERROR: "it could not be verified",
}


def fault_outcomes(outcomes: Iterable[Outcome], faults: Faults, keys: Mapping[str, str]) -> list[Outcome]:
    """The outcomes of one run, corrected by what the gateway saw. `keys`: id in the view -> unit.

    A question whose last call failed is `rate_limited` or `budget`, unless it was solved all the same. One whose last
    answer was cut is `truncated` instead of wrong or unanswered: the harness's own fault, counted at the value it had.
    Where failed calls named no question, any that was not solved may have been theirs: all of them take that kind, so
    that the candidate is unscored rather than called bad.
    """
    of_unit = {keys[question]: kind for question, kind in faults.questions.items() if question in keys}
    of_any = _commonest(faults.untagged)
    return [_corrected(outcome, of_unit.get(outcome.unit), of_any) for outcome in outcomes]


def why(kind: OutcomeKind) -> str:
    """In words, for an infrastructure failure: a prediction does not belong into a message, it may be one of val."""
    return _WHY[kind]


def _corrected(outcome: Outcome, own: OutcomeKind | None, of_any: OutcomeKind | None) -> Outcome:
    if outcome.kind in _EARNED or outcome.kind in INFRASTRUCTURE:
        return outcome
    if own is not None and own in INFRASTRUCTURE:
        return _failed(outcome, own, "for this question")
    if of_any is not None:
        return _failed(outcome, of_any, "that named no question")
    if own is OutcomeKind.TRUNCATED and outcome.kind in _CUT_SHORT:
        return replace(outcome, kind=OutcomeKind.TRUNCATED)
    return outcome


def _failed(outcome: Outcome, kind: OutcomeKind, which: str) -> Outcome:
    return replace(outcome, kind=kind, prediction=f"(a model call {which} failed: {why(kind)})")


def _commonest(untagged: Mapping[OutcomeKind, int]) -> OutcomeKind | None:
    """The infrastructure failure that occurred most; the first of the enum where several did equally."""
    counts = {kind: untagged.get(kind, 0) for kind in OutcomeKind if kind in INFRASTRUCTURE}
    most = max(counts, key=lambda kind: counts[kind])
    return most if counts[most] > 0 else None
