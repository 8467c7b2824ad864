"""What the loop came to, as a proposal. A model that never submitted costs no generation if its draft can run."""

from collections.abc import Mapping
from typing import Any

from sia_runner.agents.llm.desk import Desk, Stopped, Submitted
from sia_runner.agents.llm.draft import digest
from sia_runner.agents.llm.improvement import improvement
from sia_runner.agents.llm.loop import Ended, Why
from sia_runner.agents.protocol import Brief
from sia_runner.records import Lever, Proposal

_NOTE = 500  # characters of a text kept for later generations


def proposal(brief: Brief, desk: Desk, ended: Ended) -> Proposal:
    match desk.decision:
        case Stopped(reason):
            return Proposal(Lever.STOP, reason, title="nothing left to try", usage=ended.usage)
        case Submitted() as submitted:
            return _candidate(brief, desk, ended, submitted)
        case None:
            return _unsubmitted(brief, desk, ended)


def _unsubmitted(brief: Brief, desk: Desk, ended: Ended) -> Proposal:
    """The draft as it was left, where it can be a candidate; else a proposal that `build` refuses in one line."""
    if ended.why is Why.TURNS:
        how = f"The model used its {ended.turns} turns without a submission that was accepted."
    else:
        how = "The model used up its repairs: every submission was sent back."
    how += f" The last was sent back with: {ended.refusal}" if ended.refusal else ""
    fault = desk.draft.fault()
    if not fault and not desk.draft.changed and not desk.first:
        fault = "it is the parent's, unchanged"
    fault = fault or _proposed_before(desk)
    if fault:
        rationale = f"{how} The harness that it left is not proposed: {fault}."
        return Proposal(Lever.HARNESS, rationale, title="no submission", usage=ended.usage)
    what = "the harness as it was left" if desk.draft.changed else "the reference harness as it is"
    given = Submitted("unsubmitted draft", f"{how} Proposed is {what}.", "Unknown: the model named none.")
    return _candidate(brief, desk, ended, given)


def _proposed_before(desk: Desk) -> str:
    fate = desk.earlier.get(digest(desk.draft.files))
    return f"the same files were {fate}" if fate else ""


def _candidate(brief: Brief, desk: Desk, ended: Ended, given: Submitted) -> Proposal:
    return Proposal(
        _lever(desk, given),
        given.rationale,
        files=desk.draft.files,
        algorithm=given.algorithm,
        title=given.title,
        improvement=improvement(brief, desk, given),
        notes=_notes(desk, ended, given),
        usage=ended.usage,
    )


def _lever(desk: Desk, given: Submitted) -> Lever:
    if given.algorithm is None:
        return Lever.HARNESS
    return Lever.BOTH if desk.draft.changed else Lever.WEIGHTS


def _notes(desk: Desk, ended: Ended, given: Submitted) -> Mapping[str, Any]:
    """Short: it comes back in the history of every later generation. `digest` marks what was proposed on the weights
    as they are; on trained ones the same files are another candidate."""
    return {
        **({"digest": digest(desk.draft.files)} if given.algorithm is None else {}),
        "expected_effect": given.expected_effect[:_NOTE],
        "ended": ended.why.value,
        "turns": ended.turns,
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
