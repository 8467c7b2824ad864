"""Turns the loop's result into a proposal. A draft that was never submitted is proposed too, if it can run."""

from collections.abc import Mapping
from typing import Any

from sia_runner.agents.llm.desk import Desk, Stopped, Submitted
from sia_runner.agents.llm.draft import digest
from sia_runner.agents.llm.improvement import improvement
from sia_runner.agents.llm.loop import Ended, Why
from sia_runner.agents.protocol import Brief
from sia_runner.records import Lever, Proposal

_NOTE = 500  # characters of a text kept for later generations


def proposal(brief: Brief, desk: Desk, result: Ended) -> Proposal:
    """Return the proposal of a finished loop."""
    match desk.decision:
        case Stopped(reason):
            return Proposal(Lever.STOP, reason, title="nothing left to try", usage=result.usage)
        case Submitted() as submitted:
            return _candidate(brief, desk, result, submitted)
        case None:
            return _unsubmitted(brief, desk, result)


def _unsubmitted(brief: Brief, desk: Desk, result: Ended) -> Proposal:
    """Return the unsubmitted draft if it can be a candidate; else a proposal that `build` refuses in one line."""
    if result.why is Why.TURNS:
        explanation = f"The model used its {result.turns} turns without a submission that was accepted."
    else:
        explanation = "The model used up its repairs: every submission was sent back."
    explanation += f" The last was sent back with: {result.refusal}" if result.refusal else ""
    fault = desk.draft.fault()
    if not fault and not desk.draft.changed and not desk.first:
        fault = "it is the parent's, unchanged"
    fault = fault or _proposed_before(desk)
    if fault:
        rationale = f"{explanation} The harness that it left is not proposed: {fault}."
        return Proposal(Lever.HARNESS, rationale, title="no submission", usage=result.usage)
    description = "the harness as it was left" if desk.draft.changed else "the reference harness as it is"
    submission = Submitted(
        "unsubmitted draft", f"{explanation} Proposed is {description}.", "Unknown: the model named none."
    )
    return _candidate(brief, desk, result, submission)


def _proposed_before(desk: Desk) -> str:
    fate = desk.earlier.get(digest(desk.draft.files))
    return f"the same files were {fate}" if fate else ""


def _candidate(brief: Brief, desk: Desk, result: Ended, submission: Submitted) -> Proposal:
    return Proposal(
        _lever(desk, submission),
        submission.rationale,
        files=desk.draft.files,
        algorithm=submission.algorithm,
        title=submission.title,
        improvement=improvement(brief, desk, submission),
        notes=_notes(desk, result, submission),
        usage=result.usage,
    )


def _lever(desk: Desk, submission: Submitted) -> Lever:
    if submission.algorithm is None:
        return Lever.HARNESS
    return Lever.BOTH if desk.draft.changed else Lever.WEIGHTS


def _notes(desk: Desk, result: Ended, submission: Submitted) -> Mapping[str, Any]:
    """Return the notes, kept short: they come back in the history of every later generation.

    `digest` marks a proposal on the current weights; on trained weights the same files are another candidate.
    """
    return {
        **({"digest": digest(desk.draft.files)} if submission.algorithm is None else {}),
        "expected_effect": submission.expected_effect[:_NOTE],
        "ended": result.why.value,
        "turns": result.turns,
        "trials": [
            {
                "digest": tried.digest,
                "value": tried.trial.value,
                "n": tried.trial.n,
                "failure": tried.trial.failure[:200],
            }
            for tried in desk.tried
        ],
    }
