"""Holds the messages of a proposal: makes the model's answers valid and keeps each request below a number of bytes.

The oldest are cut first, to well below the limit: cuts are rare, and between two of them every request begins with the
previous one, which providers' prompt caches reward.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sia_runner.proposers.llm_workspace import clip_text
from sia_runner.proposers.protocol import Message
from sia_runner.records import Json, ModelReply, ToolCall

MOST_CALLS = 16  # carried out of one message
_TEXT_BYTES = 64 * 1024  # bytes of one message's text that are kept
_UNREADABLE = 200  # characters kept of arguments that are no JSON object


def valid_message(reply: ModelReply, turn: int) -> tuple[Json, list[ToolCall]]:
    """Return the message to append, and its calls with the ids under which their results must be sent."""
    calls = [_valid_call(call, turn, position) for position, call in enumerate(reply.tool_calls[:MOST_CALLS])]
    if len({call.id for call in calls}) < len(calls):
        calls = [ToolCall(f"call_{turn}_{position}", call.name, call.arguments) for position, call in enumerate(calls)]
    message = _valid_text({**reply.message, "role": "assistant"})
    originals = message.pop("tool_calls", None)
    if calls:
        originals = [*(originals if isinstance(originals, list) else []), *[None] * len(calls)]
        message["tool_calls"] = [
            _call_message(call, original) for call, original in zip(calls, originals, strict=False)
        ]
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = clip_text(content, _TEXT_BYTES)
    if not content:
        message["content"] = None if calls else "(nothing)"  # an empty message is refused by some providers
    return message, calls


def _valid_call(call: ToolCall, turn: int, position: int) -> ToolCall:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", call.name)[:64] or "unnamed"
    # long ids are allowed: litellm keeps the signature of Gemini's thinking in them
    identifier = call.id if re.fullmatch(r"[!-~]{1,4096}", call.id or "") else f"call_{turn}_{position}"
    return ToolCall(identifier, name, str(_valid_text(call.arguments or "")))


def _call_message(call: ToolCall, original: Any) -> Json:
    """Keep the provider's additions to the call (a signature of its thinking), which it may require back."""
    additions = original if isinstance(original, dict) else {}
    function = {"name": call.name, "arguments": _json_object(call.arguments)}
    return {**additions, "id": call.id, "type": "function", "function": function}


def _json_object(arguments: str) -> str:
    try:
        values = json.loads(arguments.strip() or "{}")
        if isinstance(values, dict):
            return json.dumps(_valid_text(values), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        pass
    return json.dumps({"unreadable": arguments[:_UNREADABLE]}, ensure_ascii=False)


def _valid_text(value: Any) -> Any:
    """Return a copy in which half surrogate pairs, which cannot be sent, are question marks."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


_SHORT = 120  # characters below which nothing is cut


def _short(text: str) -> str:
    return text if len(text) <= _SHORT else f"[{len(text)} characters, no longer shown]"


def _shorten_result(message: Message) -> Message:
    return {**message, "content": _short(message["content"])} if message["role"] == "tool" else message


def _shorten_text(message: Message) -> Message:
    """Replace the model's text and its provider's additions (its thinking) by a mark."""
    if message["role"] != "assistant":
        return message
    content = message.get("content") or ""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    short = {key: message[key] for key in ("role", "tool_calls") if key in message} | {"content": _short(text)}
    if "reasoning_content" in message:  # providers that send it require it with each tool call
        short["reasoning_content"] = _short(str(message["reasoning_content"]))
    return short


def _shorten_arguments(message: Message) -> Message:
    """Replace long texts in the arguments of the model's tool calls, such as whole files, by a mark."""
    if message["role"] != "assistant" or "tool_calls" not in message:
        return message
    calls: list[Message] = []
    for call in message["tool_calls"]:
        short: Json = {}
        for key, value in list(json.loads(call["function"]["arguments"]).items())[:20]:
            text = value if isinstance(value, str) else json.dumps(value)
            short[key[:_SHORT]] = value if len(text) <= _SHORT else _short(text)
        function = {"name": call["function"]["name"], "arguments": json.dumps(short, ensure_ascii=False)}
        calls.append({"id": call["id"], "type": "function", "function": function})
    return {**message, "tool_calls": calls}


_AFTER_CUT = 0.7  # of the limit
_HEAD = 2  # the system prompt and the task stay


class Conversation:
    """The messages of one proposal, bounded in bytes."""

    def __init__(self, system: str, task: str, tools: Sequence[Message], limit: int) -> None:
        """Start with the system prompt and the task; `limit` is in bytes of the request's JSON, messages and tools."""
        self.tools, self._limit = list(tools), limit - _size(tools) - 64  # the keys around them
        self._messages: list[Message] = [{"role": "system", "content": system}, {"role": "user", "content": task}]
        self._sizes = [_size(message) for message in self._messages]
        self._newest = _HEAD  # index of the newest answer of the model

    @property
    def messages(self) -> list[Message]:
        """The messages of the next request."""
        return list(self._messages)

    def add(self, answer: Message, results: Sequence[Message]) -> None:
        """Add the model's message and its tool results, or the one user message that answers it."""
        self._newest = len(self._messages)
        self._messages += [answer, *results]
        self._sizes += [_size(message) for message in (answer, *results)]
        if sum(self._sizes) <= self._limit:
            return
        goal = int(self._limit * _AFTER_CUT)
        for shorten in (_shorten_result, _shorten_text, _shorten_arguments):
            for position in range(_HEAD, self._newest):
                if sum(self._sizes) <= goal:
                    return
                self._put(position, shorten(self._messages[position]))
        while sum(self._sizes) > goal and self._newest > _HEAD:
            # the oldest answer goes with its results: providers refuse a result without its call
            end = next(i for i in range(_HEAD + 1, self._newest + 1) if self._messages[i]["role"] == "assistant")
            del self._messages[_HEAD:end], self._sizes[_HEAD:end]
            self._newest -= end - _HEAD
        if sum(self._sizes) > self._limit:
            self._fit_newest()

    def _fit_newest(self) -> None:
        results = range(self._newest + 1, len(self._messages))
        available = self._limit - sum(self._sizes[: self._newest + 1])
        share = max(0, available // max(1, len(results)))
        for position in results:
            self._put(position, _clipped(self._messages[position], share))
        for shorten in (_shorten_text, _shorten_arguments):
            if sum(self._sizes) > self._limit:
                self._put(self._newest, shorten(self._messages[self._newest]))

    def _put(self, position: int, message: Message) -> None:
        self._messages[position], self._sizes[position] = message, _size(message)


def _clipped(message: Message, share: int) -> Message:
    """Return the message with its content cut so that its JSON takes at most `share` bytes, or as few as possible."""
    content, around = str(message["content"]), _size({**message, "content": ""})
    for length in (share - around, (share - around) // 2, (share - around) // 6):  # escapes take up to six bytes each
        clipped = {**message, "content": clip_text(content, max(0, length))}
        if _size(clipped) <= share:
            return clipped
    return _shorten_result(message)


def _size(value: Sequence[Message] | Mapping[str, Any]) -> int:
    """Return the bytes of JSON, including the comma that follows."""
    return len(json.dumps(value, ensure_ascii=False).encode(errors="replace")) + 2
