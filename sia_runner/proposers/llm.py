"""The language-model proposer: a bounded loop in which the model reads, edits, tries and submits a harness.

A draft that was never submitted is proposed too, if it can run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sia_runner.proposers import llm_prompts
from sia_runner.proposers.files import read_harness_files, read_tree
from sia_runner.proposers.llm_conversation import MOST_CALLS, Conversation, valid_message
from sia_runner.proposers.llm_file_tools import Tool
from sia_runner.proposers.llm_prompts import improvement_text
from sia_runner.proposers.llm_tools import ENDING_TOOLS, available_tools
from sia_runner.proposers.llm_workspace import (
    Draft,
    ProposalWorkspace,
    StopDecision,
    Submission,
    ToolRefused,
    digest_of_files,
)
from sia_runner.proposers.protocol import Brief, Message, ProposerContext, Workbench
from sia_runner.records import Lever, ModelReply, Proposal, Status, ToolCall, Usage


class LoopEnding(StrEnum):
    """The reason why the loop ended."""

    DECIDED = "decided"  # see `decision` of the workspace
    TURNS = "turns"
    REPAIRS = "repairs"


@dataclass(frozen=True, slots=True)
class LoopResult:
    """The result of the loop."""

    why: LoopEnding
    turns: int  # model calls made
    usage: Usage
    refusal: str = ""  # of the last submission that was sent back


def run_loop(
    conversation: Conversation,
    desk: ProposalWorkspace,
    tools: Mapping[str, Tool],
    settings: Mapping[str, Any],
    turns: int,
    repairs: int,
) -> LoopResult:
    """Run the loop.

    Exceptions of `workbench.chat` end the proposal and pass through; nothing that a model writes raises.
    """
    usage, refusals = Usage(), []
    for turn in range(1, turns + 1):
        reply = desk.workbench.chat(conversation.messages, conversation.tools, **settings)
        usage += reply.usage
        answer, calls = valid_message(reply, turn)
        results: list[Message] = []
        for call in calls:
            text, fault = _call_tool(desk, tools, call)
            if desk.decision is not None:
                return LoopResult(LoopEnding.DECIDED, turn, usage)
            if fault and call.name in ENDING_TOOLS:
                refusals.append(text)
            results.append({"role": "tool", "tool_call_id": call.id, "content": text})
        if len(refusals) > repairs:
            return LoopResult(LoopEnding.REPAIRS, turn, usage, refusals[-1])
        conversation.add(answer, _with_status(results, reply, turns - turn, desk.trials))
    return LoopResult(LoopEnding.TURNS, turns, usage, refusals[-1] if refusals else "")


def _call_tool(desk: ProposalWorkspace, tools: Mapping[str, Tool], call: ToolCall) -> tuple[str, bool]:
    """Return the answer to a tool call, and whether it was refused."""
    tool = tools.get(call.name)
    if tool is None:
        return f"there is no tool {call.name}; there are: {', '.join(tools)}", True
    try:
        return tool.call(desk, call.arguments), False
    except ToolRefused as refused:
        return f"error: {refused}", True


def _with_status(results: list[Message], reply: ModelReply, turns: int, trials: int) -> list[Message]:
    """Return the results with the turns and trials left; without a tool call, a user message that asks for one."""
    notes = []
    if reply.finish_reason == "length":
        notes.append("Your message was cut at its token limit. Write less at once: several smaller edits or files.")
    if len(reply.tool_calls) > MOST_CALLS:
        notes.append(f"Only the first {MOST_CALLS} tool calls of one message are carried out.")
    if not results:
        notes.append("Nothing was done: call a tool. Your work ends with submit.")
    notes.append(_remaining(turns, trials))
    if not results:
        return [{"role": "user", "content": " ".join(notes)}]
    last = results[-1]
    return [*results[:-1], {**last, "content": f"{last['content']}\n\n[{' '.join(notes)}]"}]


def _remaining(turns: int, trials: int) -> str:
    if turns == 1:
        return "This is your last turn: submit now."
    return f"Turns left: {turns}, trials left: {trials}."


_NOTE_CHARACTERS = 500  # characters of a text kept for later generations


def build_proposal(brief: Brief, desk: ProposalWorkspace, result: LoopResult) -> Proposal:
    """Return the proposal of a finished loop."""
    match desk.decision:
        case StopDecision(reason):
            return Proposal(Lever.STOP, reason, title="nothing left to try", usage=result.usage)
        case Submission() as submitted:
            return _candidate_proposal(brief, desk, result, submitted)
        case None:
            return _unsubmitted_proposal(brief, desk, result)


def _unsubmitted_proposal(brief: Brief, desk: ProposalWorkspace, result: LoopResult) -> Proposal:
    """Return the unsubmitted draft if it can be a candidate; else a proposal that `build` refuses in one line."""
    if result.why is LoopEnding.TURNS:
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
    submission = Submission(
        "unsubmitted draft", f"{explanation} Proposed is {description}.", "Unknown: the model named none."
    )
    return _candidate_proposal(brief, desk, result, submission)


def _proposed_before(desk: ProposalWorkspace) -> str:
    fate = desk.earlier.get(digest_of_files(desk.draft.files))
    return f"the same files were {fate}" if fate else ""


def _candidate_proposal(brief: Brief, desk: ProposalWorkspace, result: LoopResult, submission: Submission) -> Proposal:
    return Proposal(
        _lever(desk, submission),
        submission.rationale,
        files=desk.draft.files,
        algorithm=submission.algorithm,
        title=submission.title,
        improvement=improvement_text(brief, desk, submission),
        notes=_notes(desk, result, submission),
        usage=result.usage,
    )


def _lever(desk: ProposalWorkspace, submission: Submission) -> Lever:
    if submission.algorithm is None:
        return Lever.HARNESS
    return Lever.BOTH if desk.draft.changed else Lever.WEIGHTS


def _notes(desk: ProposalWorkspace, result: LoopResult, submission: Submission) -> Mapping[str, Any]:
    """Return the notes, kept short: they come back in the history of every later generation.

    `digest` marks a proposal on the current weights; on trained weights the same files are another candidate.
    """
    return {
        **({"digest": digest_of_files(desk.draft.files)} if submission.algorithm is None else {}),
        "expected_effect": submission.expected_effect[:_NOTE_CHARACTERS],
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


_TOOL_ANSWER_BYTES = 24 * 1024  # bytes of one tool's answer, where the context is large


class Llm:
    """The meta-agent in generation 1 and feedback agent afterwards.

    Deterministic for (brief, the model's replies, trials).
    """

    pulls_weights = True

    def __init__(
        self,
        context: ProposerContext,
        *,
        turns: int,
        context_kb: int,
        trials: int,
        trial_questions: int,
        repairs: int,
        temperature: float | None,
        max_tokens: int,
    ) -> None:
        self._context = context
        self._turns, self._limit, self._repairs = turns, context_kb * 1024, repairs
        self._trials, self._questions = trials, trial_questions
        self._settings: dict[str, Any] = {"max_tokens": max_tokens}
        if temperature is not None:
            self._settings["temperature"] = temperature

    def propose(self, brief: Brief, workbench: Workbench) -> Proposal:
        """Run the loop on the parent's harness and return its proposal."""
        desk = self._desk(brief, workbench)
        tools = available_tools(first=desk.first, trials=desk.trials, weights=desk.weights is not None)
        prompts = llm_prompts.PromptData(self._context, brief, desk, self._turns, self._limit)
        schemas = [tool.schema() for tool in tools.values()]
        conversation = Conversation(prompts.system(), prompts.task(), schemas, self._limit)
        result = run_loop(conversation, desk, tools, self._settings, self._turns, self._repairs)
        return build_proposal(brief, desk, result)

    def _desk(self, brief: Brief, workbench: Workbench) -> ProposalWorkspace:
        evidence = read_tree(brief.evidence) if brief.evidence else {"task.md": self._context.description}
        parent = read_tree(brief.evidence / "harness") if brief.evidence else {}
        start = parent or read_harness_files(self._context.reference, self._context.entry)
        draft = Draft(start, self._context.entry)
        return ProposalWorkspace(
            evidence=evidence,
            draft=draft,
            workbench=workbench,
            trials=self._trials,
            questions=self._questions,
            answer_bytes=min(_TOOL_ANSWER_BYTES, self._limit // 6),
            first=brief.n == 1,
            earlier={
                str(past.notes["digest"]): f"generation {past.n}, {past.status} ({past.reason[:200]})"
                for past in brief.history
                if past.notes.get("digest") and past.status != Status.UNSCORED
            },
            weights=brief.weights,
            start_value=_earlier_value(brief, digest_of_files(draft.files), self._questions),
        )


def _earlier_value(brief: Brief, harness_digest: str, questions: int) -> float | None:
    """Return the value of an earlier trial of the same harness, or None.

    Trials of one size ask the same questions in every generation, so an earlier one is a fair comparison, unless the
    harness's model had other weights then.
    """
    trained = [past.n for past in brief.history if past.lever is not Lever.HARNESS and past.status == Status.ACCEPTED]
    since = max(trained, default=0)
    trials = [trial for past in brief.history if past.n > since for trial in past.notes.get("trials", [])]
    values = [
        trial["value"]
        for trial in trials
        if trial.get("digest") == harness_digest and trial.get("n") == questions and not trial.get("failure")
    ]
    return values[-1] if values else None
