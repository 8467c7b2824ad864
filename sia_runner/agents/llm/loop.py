"""Runs the loop: call the model, carry out its tool calls, until it submits, stops or uses up its turns."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sia_runner.agents.llm.answer import MOST_CALLS, sane
from sia_runner.agents.llm.conversation import Conversation
from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.draft import Refused
from sia_runner.agents.llm.tools import ENDING
from sia_runner.agents.llm.tools.base import Tool
from sia_runner.agents.protocol import Message
from sia_runner.records import Reply, ToolCall, Usage


class Why(StrEnum):
    """The reason why the loop ended."""

    DECIDED = "decided"  # see `decision` of the workspace
    TURNS = "turns"
    REPAIRS = "repairs"


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of the loop."""

    why: Why
    turns: int  # model calls made
    usage: Usage
    refusal: str = ""  # of the last submission that was sent back


def run(
    conversation: Conversation,
    desk: Desk,
    tools: Mapping[str, Tool],
    settings: Mapping[str, Any],
    turns: int,
    repairs: int,
) -> Ended:
    """Run the loop.

    Exceptions of `workbench.chat` end the proposal and pass through; nothing that a model writes raises.
    """
    usage, refusals = Usage(), []
    for turn in range(1, turns + 1):
        reply = desk.workbench.chat(conversation.messages, conversation.tools, **settings)
        usage += reply.usage
        answer, calls = sane(reply, turn)
        results: list[Message] = []
        for call in calls:
            text, fault = _carried_out(desk, tools, call)
            if desk.decision is not None:
                return Ended(Why.DECIDED, turn, usage)
            if fault and call.name in ENDING:
                refusals.append(text)
            results.append({"role": "tool", "tool_call_id": call.id, "content": text})
        if len(refusals) > repairs:
            return Ended(Why.REPAIRS, turn, usage, refusals[-1])
        conversation.add(answer, _with_status(results, reply, turns - turn, desk.trials))
    return Ended(Why.TURNS, turns, usage, refusals[-1] if refusals else "")


def _carried_out(desk: Desk, tools: Mapping[str, Tool], call: ToolCall) -> tuple[str, bool]:
    """Return the answer to a tool call, and whether it was refused."""
    tool = tools.get(call.name)
    if tool is None:
        return f"there is no tool {call.name}; there are: {', '.join(tools)}", True
    try:
        return tool.call(desk, call.arguments), False
    except Refused as refused:
        return f"error: {refused}", True


def _with_status(results: list[Message], reply: Reply, turns: int, trials: int) -> list[Message]:
    """Return the results with the turns and trials left; without a tool call, a user message that asks for one."""
    notes = []
    if reply.finish_reason == "length":
        notes.append("Your message was cut at its token limit. Write less at once: several smaller edits or files.")
    if len(reply.tool_calls) > MOST_CALLS:
        notes.append(f"Only the first {MOST_CALLS} tool calls of one message are carried out.")
    if not results:
        notes.append("Nothing was done: call a tool. Your work ends with submit.")
    notes.append(_left(turns, trials))
    if not results:
        return [{"role": "user", "content": " ".join(notes)}]
    last = results[-1]
    return [*results[:-1], {**last, "content": f"{last['content']}\n\n[{' '.join(notes)}]"}]


def _left(turns: int, trials: int) -> str:
    if turns == 1:
        return "This is your last turn: submit now."
    return f"Turns left: {turns}, trials left: {trials}."
