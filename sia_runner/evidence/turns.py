"""Formats a model call as text, in OpenAI's shape, in Anthropic's, or in neither."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

Turn = tuple[str, str]  # role, text


def new_turns(request: Any, before: Any) -> tuple[int, list[Turn]]:
    """Return how many first messages `request` shares with `before`, and the messages that follow."""
    messages = _messages(request)
    earlier = _messages(before)
    same = 0
    while same < min(len(messages), len(earlier)) and messages[same] == earlier[same]:
        same += 1
    return same, [(_who(message), _said(message)) for message in messages[same:]]


def answer(response: Any) -> str:
    """Return the model's answer as text, tool calls included."""
    return _said(response) if isinstance(response, Mapping) else _text(response)


def _messages(request: Any) -> list[Any]:
    if not isinstance(request, Mapping):
        return [request] if request else []
    messages = request.get("messages")
    if not isinstance(messages, list):
        return [dict(request)]
    system = request.get("system")
    return ([{"role": "system", "content": system}] if system else []) + messages


def _who(message: Any) -> str:
    role = message.get("role") if isinstance(message, Mapping) else None
    return role if isinstance(role, str) else "request"


def _said(message: Any) -> str:
    """Return text first, then tool calls; a message with neither is shown as JSON."""
    if not isinstance(message, Mapping):
        return _text(message)
    content = message.get("content", message.get("text"))
    parts = [_part(part) for part in content] if isinstance(content, list) else [_text(content)]
    calls = message.get("tool_calls")
    parts += [_tool_call(call) for call in calls] if isinstance(calls, Sequence) and not isinstance(calls, str) else []
    if not any(parts) and "content" not in message and "text" not in message:
        return _text(message)
    return "\n".join(part for part in parts if part)


def _part(part: Any) -> str:
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    return _text(part)


def _tool_call(call: Any) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return _text(call)
    return f"calls {_text(function.get('name'))}({_text(function.get('arguments'))})"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
