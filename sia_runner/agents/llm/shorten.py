"""Shortens single messages. Calls and results keep their ids: every call must have its result."""

import json

from sia_runner.agents.protocol import Message

_KEPT = 120  # characters below which nothing is cut


def shorten_result(message: Message) -> Message:
    """Replace a tool's answer by a mark; other messages stay."""
    content = str(message.get("content") or "")
    if message["role"] != "tool" or len(content) <= _KEPT:
        return message
    return {**message, "content": f"[{len(content)} characters, no longer shown]"}


def shorten_text(message: Message) -> Message:
    """Replace the model's text and its provider's additions (its thinking) by a mark."""
    content = message.get("content") or ""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    if message["role"] != "assistant":
        return message
    required = {key: message[key] for key in ("role", "tool_calls") if key in message}
    return {**required, "content": text if len(text) <= _KEPT else f"[{len(text)} characters, no longer shown]"}


def shorten_arguments(message: Message) -> Message:
    """Replace long texts in the arguments of the model's tool calls, such as whole files, by a mark."""
    if message["role"] != "assistant" or "tool_calls" not in message:
        return message
    return {**message, "tool_calls": [_shortened(call) for call in message["tool_calls"]]}


def _shortened(call: Message) -> Message:
    function = call["function"]
    arguments = json.loads(function["arguments"])
    short = {
        key[:_KEPT]: f"[{size} characters, no longer shown]" if (size := _length(value)) > _KEPT else value
        for key, value in list(arguments.items())[:20]
    }
    required = {"id": call["id"], "type": "function"}
    return {**required, "function": {"name": function["name"], "arguments": json.dumps(short, ensure_ascii=False)}}


def _length(value: object) -> int:
    return len(value) if isinstance(value, str) else len(json.dumps(value))
