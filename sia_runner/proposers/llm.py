"""The language-model proposer: a bounded loop in which the model reads, edits, tries and submits a harness."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sia_runner.proposers.files import read_harness_files, read_tree
from sia_runner.proposers.llm_conversation import MOST_CALLS, Conversation, valid_message
from sia_runner.proposers.llm_tools import ENDING_TOOLS, Tool, available_tools
from sia_runner.proposers.llm_workspace import (
    Draft,
    ProposalWorkspace,
    Submission,
    ToolRefused,
    clip_text,
    digest_of_files,
    trial_notes,
)
from sia_runner.proposers.prompting import describe_parent, render_prompt, table_cell, task_facts
from sia_runner.proposers.protocol import Brief, Message, ProposerContext, Workbench
from sia_runner.records import Lever, ModelReply, Proposal, Status, ToolCall, Usage

_CELL_CHARACTERS = 200
_NEWEST_GENERATIONS = 20  # that the prompt shows
_MOST_NAMES = 60  # of files that the prompt shows
_NOTE_CHARACTERS = 500  # characters of a text kept for later generations
_TOOL_ANSWER_BYTES = 24 * 1024  # bytes of one tool's answer, where the context is large


@dataclass(frozen=True, slots=True)
class _LoopResult:
    why: Literal["decided", "turns", "repairs"]  # decided: see `decision` of the workspace
    turns: int  # model calls made
    usage: Usage
    refusal: str = ""  # of the last submission that was sent back


class Llm:
    """The meta-agent in generation 1 and feedback agent afterwards; deterministic for (brief, replies, trials)."""

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
        workspace = self._workspace(brief, workbench)
        tools = available_tools(
            first=workspace.first,
            trials=workspace.trials,
            weights=workspace.weights is not None,
            earlier=bool(workspace.candidates),
        )
        conversation = Conversation(
            _system_prompt(self._context, brief, workspace, self._turns),
            _task_prompt(self._context, brief, workspace, self._limit),
            [tool.declaration() for tool in tools.values()],
            self._limit,
        )
        result = self._run_loop(conversation, workspace, tools)
        match workspace.decision:
            case str(reason):
                return Proposal(Lever.STOP, reason, title="nothing left to try", usage=result.usage)
            case Submission() as submission:
                return _candidate_proposal(brief, workspace, result, submission)
            case None:
                return _unsubmitted_proposal(brief, workspace, result)

    def _workspace(self, brief: Brief, workbench: Workbench) -> ProposalWorkspace:
        evidence = read_tree(brief.evidence) if brief.evidence else {"task.md": self._context.description}
        parent = read_tree(brief.evidence / "harness") if brief.evidence else {}
        start = parent or read_harness_files(self._context.reference, self._context.entry)
        return ProposalWorkspace(
            evidence=evidence,
            draft=Draft(start, self._context.entry),
            workbench=workbench,
            trials=0 if brief.blind else self._trials,
            questions=self._questions,
            answer_bytes=min(_TOOL_ANSWER_BYTES, self._limit // 6),
            first=brief.first,
            earlier={
                str(past.notes["digest"]): f"generation {past.n}, {past.status} ({past.reason[:200]})"
                for past in brief.history
                if past.notes.get("digest") and past.status != Status.UNSCORED
            },
            candidates=() if brief.first else tuple(past.n for past in brief.history),
            weights=brief.weights,
            start_value=_earlier_value(brief, digest_of_files(start), self._questions),
        )

    def _run_loop(
        self, conversation: Conversation, workspace: ProposalWorkspace, tools: Mapping[str, type[Tool]]
    ) -> _LoopResult:
        """Run the loop. Exceptions of `workbench.chat` end the proposal; nothing that a model writes raises."""
        usage, refusals = Usage(), []
        for turn in range(1, self._turns + 1):
            reply = workspace.workbench.chat(conversation.messages, conversation.tools, **self._settings)
            usage += reply.usage
            answer, calls = valid_message(reply, turn)
            results: list[Message] = []
            for call in calls:
                text, is_fault = _call_tool(workspace, tools, call)
                if workspace.decision is not None:
                    return _LoopResult("decided", turn, usage)
                if is_fault and call.name in ENDING_TOOLS:
                    refusals.append(text)
                results.append({"role": "tool", "tool_call_id": call.id, "content": text})
            if len(refusals) > self._repairs:
                return _LoopResult("repairs", turn, usage, refusals[-1])
            conversation.add(answer, _with_status(results, reply, self._turns - turn, workspace.trials))
        return _LoopResult("turns", self._turns, usage, refusals[-1] if refusals else "")


def _earlier_value(brief: Brief, harness_digest: str, questions: int) -> float | None:
    """Return the value of an earlier trial of the same harness on the same weights, or None.

    Trials of one size ask the same questions in every generation, so it is a fair comparison.
    """
    trained = [past.n for past in brief.history if past.lever is not Lever.HARNESS and past.status == Status.ACCEPTED]
    since = max(trained, default=0)
    trials = [trial for past in brief.history if past.n > since for trial in past.notes.get("trials", [])]
    sound = [trial for trial in trials if trial.get("n") == questions and not trial.get("failure")]
    values = [trial["value"] for trial in sound if trial.get("digest") == harness_digest]
    return values[-1] if values else None


def _call_tool(workspace: ProposalWorkspace, tools: Mapping[str, type[Tool]], call: ToolCall) -> tuple[str, bool]:
    """Return the answer to a tool call, and whether it was refused."""
    if call.name not in tools:
        return f"there is no tool {call.name}; there are: {', '.join(tools)}", True
    try:
        return tools[call.name].call(workspace, call.arguments), False
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
    last_turn = "This is your last turn: submit now."
    notes.append(last_turn if turns == 1 else f"Turns left: {turns}, trials left: {trials}.")
    if not results:
        return [{"role": "user", "content": " ".join(notes)}]
    last = results[-1]
    return [*results[:-1], {**last, "content": f"{last['content']}\n\n[{' '.join(notes)}]"}]


def _unsubmitted_proposal(brief: Brief, workspace: ProposalWorkspace, result: _LoopResult) -> Proposal:
    """Return the unsubmitted draft if it can be a candidate; else a proposal that `build` refuses in one line."""
    draft = workspace.draft
    if result.why == "turns":
        explanation = f"The model used its {result.turns} turns without a submission that was accepted."
    else:
        explanation = "The model used up its repairs: every submission was sent back."
    explanation += f" The last was sent back with: {result.refusal}" if result.refusal else ""
    fault = draft.fault()
    if not fault and not draft.changed and not workspace.first:
        fault = "it is the parent's, unchanged"
    if not fault and (fate := workspace.earlier.get(digest_of_files(draft.files))):
        fault = f"the same files were {fate}"
    if fault:
        rationale = f"{explanation} The harness that it left is not proposed: {fault}."
        return Proposal(Lever.HARNESS, rationale, title="no submission", usage=result.usage)
    description = "the harness as it was left" if draft.changed else "the reference harness as it is"
    rationale, effect = f"{explanation} Proposed is {description}.", "Unknown: the model named none."
    return _candidate_proposal(brief, workspace, result, Submission("unsubmitted draft", rationale, effect))


def _candidate_proposal(
    brief: Brief, workspace: ProposalWorkspace, result: _LoopResult, submission: Submission
) -> Proposal:
    """Return a candidate. Its notes are short: they come back in the history of every later generation."""
    draft = workspace.draft
    notes: dict[str, Any] = {
        "expected_effect": submission.expected_effect[:_NOTE_CHARACTERS],
        "ended": result.why,
        "turns": result.turns,
        "trials": trial_notes(workspace),
    }
    if submission.algorithm is None:
        # it marks a proposal on the current weights; on trained weights the same files are another candidate
        lever, notes = Lever.HARNESS, {"digest": digest_of_files(draft.files), **notes}
    else:
        lever = Lever.BOTH if draft.changed else Lever.WEIGHTS
    return Proposal(
        lever,
        submission.rationale,
        files=draft.files,
        algorithm=submission.algorithm,
        title=submission.title,
        improvement=_improvement_text(brief, workspace, submission),
        notes=notes,
        usage=result.usage,
    )


def _system_prompt(context: ProposerContext, brief: Brief, workspace: ProposalWorkspace, turns: int) -> str:
    """Return the system prompt of a proposal of at most `turns` model calls."""
    extends = brief.parent is not None or any(name.startswith("harness/") for name in workspace.evidence)
    return render_prompt(
        "llm/system.md.j2",
        **task_facts(context, brief),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        start="the parent's harness" if extends else "the task's reference harness",
        weights=workspace.weights,
        trials=workspace.trials,
        earlier=bool(workspace.candidates),
        questions=workspace.questions,
        turns=turns,
    )


def _task_prompt(context: ProposerContext, brief: Brief, workspace: ProposalWorkspace, limit: int) -> str:
    """Return the first user message: the task, the files, and for an improvement the history.

    `limit` is the bytes of a whole request; each long text takes a share of it.
    """
    paths = sorted((f"- `{path}`" for path in workspace.under("")), key=lambda path: path.count("/"))  # top first
    more = [f"- and {len(paths) - _MOST_NAMES} more"] if len(paths) > _MOST_NAMES else []
    description = context.description or workspace.evidence.get("task.md", "")
    values = task_facts(context, brief) | {
        "description": clip_text(description.strip(), limit // 8),
        "files": clip_text("\n".join(paths[:_MOST_NAMES] + more), limit // 8),
    }
    if workspace.first:
        return render_prompt("llm/first.md.j2", **values)
    history = [
        {
            "n": past.n,
            "title": table_cell(past.title, _CELL_CHARACTERS),
            "status": past.status,
            "tried": ", ".join(
                f"{trial['value']:.3g} ({trial['n']} questions)" for trial in (past.notes.get("trials") or [])[-8:]
            ),
            "expected": table_cell(past.notes.get("expected_effect", ""), _CELL_CHARACTERS),
        }
        for past in brief.history[-_NEWEST_GENERATIONS:]
        if past.notes
    ]
    while history and len(str(history).encode(errors="replace")) > limit // 8:
        history.pop(0)
    restart = "No earlier harness could be scored, so you start from the reference again."
    overview = workspace.evidence.get("overview.md", "There is no overview; look at the files of evidence/.")
    return render_prompt(
        "llm/improve.md.j2",
        **values,
        parent=restart if brief.parent is None else describe_parent(brief, "You extend"),
        due_reason=workspace.weights.due_reason if workspace.weights else "",
        overview=clip_text(overview.strip(), limit // 6),
        history=history,
    )


def _improvement_text(brief: Brief, workspace: ProposalWorkspace, submission: Submission) -> str:
    """Return the text of improvement.md for a submission."""
    before, after = workspace.draft.start, workspace.draft.files
    changes = {
        "new": after.keys() - before.keys(),
        "changed": {name for name in after.keys() & before.keys() if after[name] != before[name]},
        "deleted": before.keys() - after.keys(),
    }
    return render_prompt(
        "llm/improvement.md.j2",
        n=brief.n,
        submission=submission,
        changes=[f"`{name}`: {kind}" for kind, names in changes.items() for name in sorted(names)],
        tried=workspace.tried,
        draft_digest=digest_of_files(after),
        cell_length=_CELL_CHARACTERS,
    )
