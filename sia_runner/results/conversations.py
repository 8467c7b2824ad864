"""The model calls of a harness run, by question and conversation, for tools that read trajectories; and ATIF documents.

Programs wrote the requests and models the answers: texts are bounded, and nothing in them is taken for granted.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sia_runner.records import Json, Score, ToolCall
from sia_runner.results.questions import UNTAGGED, QuestionIndex, QuestionRow
from sia_runner.store.files import as_dict, as_int, as_list, as_number, as_text
from sia_runner.store.run_directory import write_json, write_text
from sia_runner.text import one_line, strip_control_characters, truncate_bytes

Role = Literal["system", "user", "assistant", "tool"]
ATIF_VERSION = "ATIF-v1.7"
_MAX_TEXT_BYTES = 64 << 10  # bytes of one message
_MAX_NAME_CHARS = 200
_PAGE = 200  # questions read at once
_ROLES: Mapping[str, Role] = {"developer": "system", "system": "system", "assistant": "assistant", "tool": "tool"}


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation. `call_id`: the tool call that a message of the role `tool` answers."""

    role: Role
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call: the messages that were sent, and the reply, or the `error` that came in its place."""

    messages: tuple[Message, ...]
    reply: Message | None
    reasoning: str
    model: str
    at: datetime | None
    seconds: float
    finish_reason: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    usd: float | None
    tools: tuple[Json, ...]  # as OpenAI's API describes functions
    tokens: Json  # prompt_ids, completion_ids and logprobs of a policy; empty for a provider's
    error: str

    def continues(self, earlier: "ModelCall") -> bool:
        """Return whether this call sends all that `earlier` sent, and its answer after that."""
        count = len(earlier.messages)
        if earlier.reply is None or len(self.messages) <= count or self.messages[:count] != earlier.messages:
            return False
        answer = self.messages[count]
        return answer.role == "assistant" and answer.text.strip() == earlier.reply.text.strip()


@dataclass(frozen=True, slots=True)
class QuestionCalls:
    """A question with its outcome, and the calls made for it in the order in which they ended."""

    row: QuestionRow
    calls: tuple[ModelCall, ...]

    def conversations(self) -> list[list[ModelCall]]:
        """Return the calls as conversations: a call that continues no earlier one begins a new conversation."""
        conversations: list[list[ModelCall]] = []
        for call in self.calls:
            earlier = next((each for each in reversed(conversations) if call.continues(each[-1])), None)
            if earlier is None:
                conversations.append([call])
            else:
                earlier.append(call)
        return conversations


def read_questions(run: Path, folder: str) -> Iterator[QuestionCalls]:
    """Yield the questions of ``gen_3`` or ``test/gen_3`` with their calls; calls that named no question come last."""
    index = QuestionIndex(run, folder)
    while not index.refresh():
        pass
    start, total = 0, 1
    while start < total:
        total, rows = index.questions(start=start, limit=_PAGE)
        start += _PAGE
        for row in rows:
            yield QuestionCalls(row, _calls(index, row.number))
    for row in index.questions(UNTAGGED)[1] if UNTAGGED in index.kinds() else []:
        yield QuestionCalls(row, _calls(index, row.number))


def _calls(index: QuestionIndex, number: int) -> tuple[ModelCall, ...]:
    return tuple(_model_call(call) for at in index.calls(number) if (call := index.call(at)) is not None)


def _model_call(data: Json) -> ModelCall:
    request, response, usage, failed = (as_dict(data.get(key)) for key in ("request", "response", "usage", "error"))
    at, cut_request = as_number(data.get("at")), as_text(data.get("request"))
    calls = tuple(map(_tool_call, as_list(response.get("tool_calls"))))
    # a long answer is kept as the beginning of its JSON
    text = _text(response.get("text")) if response else _text(data.get("response"))
    return ModelCall(
        messages=(Message("user", _bounded(cut_request)),) if cut_request else tuple(_messages(request)),
        reply=None if failed else Message("assistant", text, calls),
        reasoning=_text(response.get("reasoning")),
        model=one_line(as_text(data.get("model")) or as_text(data.get("asked_model")) or "not known"),
        at=datetime.fromtimestamp(at, UTC) if at is not None and 0 <= at < 1e11 else None,
        seconds=as_number(data.get("seconds")) or 0.0,
        finish_reason=one_line(as_text(data.get("finish_reason"))),
        input_tokens=as_int(usage.get("input")) or 0,
        output_tokens=as_int(usage.get("output")) or 0,
        cached_tokens=as_int(usage.get("cached")) or 0,
        usd=as_number(data.get("usd")),
        tools=tuple(tool for item in as_list(request.get("tools")) if (tool := _tool(as_dict(item)))),
        tokens=as_dict(data.get("tokens")),
        error=one_line(f"{failed.get('kind', 'error')}: {failed.get('message', '')}") if failed else "",
    )


def _messages(request: Json) -> Iterator[Message]:
    """Yield the messages of a request to either API; Anthropic's results of tools become messages of their own."""
    if request.get("system"):
        yield Message("system", _text(request["system"]))
    for item in as_list(request.get("messages")):
        message = as_dict(item)
        role, content = _ROLES.get(as_text(message.get("role")), "user"), message.get("content")
        blocks = [as_dict(block) for block in as_list(content)]
        for block in blocks:
            if block.get("type") == "tool_result":
                call_id = one_line(as_text(block.get("tool_use_id")))
                yield Message("tool", _text(block.get("content")), call_id=call_id)
        rest = [block for block in blocks if block.get("type") not in ("tool_result", "tool_use")]
        calls = [*as_list(message.get("tool_calls")), *(block for block in blocks if block.get("type") == "tool_use")]
        if rest or calls or not blocks:
            text = _text(rest if isinstance(content, list) else content)
            call_id = one_line(as_text(message.get("tool_call_id")))
            yield Message(role, text, tuple(map(_tool_call, calls)), call_id)


def _tool_call(item: Any) -> ToolCall:
    """Return the call of either API, or of our own summary of an answer."""
    call = as_dict(item)
    function = as_dict(call.get("function")) or call
    arguments = function.get("arguments", function.get("input", ""))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    call_id, name = (one_line(as_text(value), _MAX_NAME_CHARS) for value in (call.get("id"), function.get("name")))
    return ToolCall(call_id, name, _bounded(text))


def _tool(tool: Json) -> Json | None:
    function = as_dict(tool.get("function")) or tool
    name = one_line(as_text(function.get("name")), _MAX_NAME_CHARS)
    if not name:
        return None
    parameters = as_dict(function.get("parameters") or function.get("input_schema"))
    about = {"name": name, "description": _text(function.get("description")), "parameters": parameters}
    return {"type": "function", "function": about}


def _text(content: Any) -> str:
    """Return the texts of a content as one; a part without text is shown as its JSON."""
    parts = content if isinstance(content, list) else [content]
    return _bounded("\n".join(filter(None, map(_part_text, parts))))


def _part_text(part: Any) -> str:
    if part is None or isinstance(part, str):
        return part or ""
    text = as_dict(part).get("text")
    return text if isinstance(text, str) else json.dumps(part, ensure_ascii=False)


def _bounded(text: str) -> str:
    return strip_control_characters(truncate_bytes(text, _MAX_TEXT_BYTES))


@dataclass(frozen=True, slots=True)
class HarnessRunExport:
    """One run of a harness to be exported, with what the journal and the task say about it."""

    run: Path
    folder: str  # gen_3 or test/gen_3
    task: str
    metric: str
    score: Score | None  # on val, or on test
    scored_split: str  # val or test
    description: str  # one line: the candidate's title and fate
    failure: str = ""  # why there is no score
    splits: Mapping[str, str] = field(default_factory=dict[str, str])  # question -> dev, val or test
    gold: Mapping[str, str] = field(default_factory=dict[str, str])  # question -> gold answer, of failures on dev
    agent: Json = field(default_factory=dict[str, Any])  # the run, the candidate and the hash of its harness
    began: datetime | None = None

    def questions(self) -> Iterator[QuestionCalls]:
        """Yield the questions with their calls; calls that named no question come last."""
        return read_questions(self.run, self.folder)

    @property
    def name(self) -> str:
        """The name of files and logs: ``gen_3`` or ``test_gen_3``."""
        return self.folder.replace("/", "_")

    def split(self, unit: str) -> str:
        """Return the split of a question; empty where it is not known."""
        return self.splits.get(unit, "")


def write_atif(export: HarnessRunExport, folder: Path) -> int:
    """Write each conversation of a harness run as a file, and index.jsonl; return the number of conversations.

    A line of index.jsonl has a question with its outcome and the files of its conversations, none where there was none.
    """
    folder.mkdir(parents=True)
    count, lines = 0, list[str]()
    for number, question in enumerate(export.questions(), 1):
        row, names = question.row, list[str]()
        outcome = {
            "question": one_line(row.unit) or None,
            "split": export.split(row.unit) or None,
            "outcome": row.kind,
            "value": row.value,
            "prediction": one_line(row.prediction, 500),
        }
        for part, conversation in enumerate(question.conversations(), 1):
            names.append(f"{number:06}.json" if part == 1 else f"{number:06}-{part}.json")
            document = atif_document(
                conversation,
                session=f"{export.run.name}/{export.folder}/{number}",
                name=f"{export.run.name}/{export.folder}/{names[-1].removesuffix('.json')}",
                agent={"name": f"sia-runner: {export.task}", "version": export.folder, "extra": export.agent},
                extra={"task": export.task, **outcome},
            )
            write_json(folder / names[-1], document, durable=False)
        count += len(names)
        lines.append(json.dumps({**outcome, "files": names}, ensure_ascii=False) + "\n")
    write_text(folder / "index.jsonl", "".join(lines), durable=False)
    return count


def parsed_arguments(call: ToolCall) -> Json:
    """Return the arguments of a tool call as an object; a model's text that is none is under the key `text`."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    return arguments if isinstance(arguments, dict) else {"text": call.arguments}


def atif_document(conversation: Sequence[ModelCall], *, session: str, name: str, agent: Json, extra: Json) -> Json:
    """Return a conversation as an ATIF trajectory. `name` is its id, `agent` and `extra` are taken as they are."""
    steps: list[Json] = []
    for position, call in enumerate(conversation):
        earlier = conversation[position - 1] if position else None
        for message in call.messages[len(earlier.messages) + 1 :] if earlier else call.messages:
            _add_message(steps, message)
        steps.append(_agent_step(call))
    steps = [{"step_id": number, **step} for number, step in enumerate(steps, 1)]
    costs = [call.usd for call in conversation]
    totals = {
        "total_prompt_tokens": sum(call.input_tokens for call in conversation),
        "total_completion_tokens": sum(call.output_tokens for call in conversation),
        "total_cached_tokens": sum(call.cached_tokens for call in conversation),
        "total_cost_usd": sum(cost for cost in costs if cost is not None) if None not in costs else None,
        "total_steps": len(steps),
    }
    tools = next((list(call.tools) for call in conversation if call.tools), None)
    agent = {**agent, "model_name": conversation[0].model, "tool_definitions": tools}
    return {
        "schema_version": ATIF_VERSION,
        "session_id": session,
        "trajectory_id": name,
        "agent": _without_none(agent),
        "steps": steps,
        "final_metrics": _without_none(totals),
        "extra": extra,
    }


def _add_message(steps: list[Json], message: Message) -> None:
    """Add a message as a step; what a tool returned belongs to the step that called it."""
    if message.role == "tool":
        called = next((step for step in reversed(steps) if message.call_id in _call_ids(step)), None)
        if called is not None and message.call_id:
            result = {"source_call_id": message.call_id, "content": message.text}
            called.setdefault("observation", {"results": []})["results"].append(result)
            return
        message = replace(message, role="user")
    step: Json = {"source": "agent" if message.role == "assistant" else message.role, "message": message.text}
    if message.tool_calls:
        step["tool_calls"] = _atif_calls(message)
    if message.role == "assistant":
        step["extra"] = {"sent_by_harness": True}  # an answer that the harness wrote, as in a few-shot prompt
    steps.append(step)


def _call_ids(step: Json) -> set[str]:
    return {call["tool_call_id"] for call in step.get("tool_calls", ())}


def _atif_calls(message: Message) -> list[Json]:
    return [
        {"tool_call_id": call.id, "function_name": call.name, "arguments": parsed_arguments(call)}
        for call in message.tool_calls
    ]


def _agent_step(call: ModelCall) -> Json:
    tokens = call.tokens
    metrics = {
        "prompt_tokens": call.input_tokens,
        "completion_tokens": call.output_tokens,
        "cached_tokens": call.cached_tokens,
        "cost_usd": call.usd,
        "prompt_token_ids": tokens.get("prompt_ids"),
        "completion_token_ids": tokens.get("completion_ids"),
        "logprobs": tokens.get("logprobs"),
    }
    extra = {"finish_reason": call.finish_reason, "error": call.error, "adapter": tokens.get("adapter")}
    reply = call.reply or Message("assistant", "")
    return _without_none(
        {
            "timestamp": call.at.isoformat() if call.at else None,
            "source": "agent",
            "model_name": call.model,
            "message": reply.text,
            "reasoning_content": call.reasoning or None,
            "tool_calls": _atif_calls(reply) or None,
            "metrics": _without_none(metrics),
            "llm_call_count": 1,
            "extra": {key: value for key, value in extra.items() if value} or None,
        }
    )


def _without_none(data: Json) -> Json:
    return {key: value for key, value in data.items() if value is not None}
