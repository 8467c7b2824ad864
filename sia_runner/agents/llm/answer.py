"""Makes the model's message valid for the next request and extracts its tool calls.

The conversation that is sent must be valid whatever a model wrote: names and ids that providers accept, arguments that
are a JSON object (a translation to another API parses them), and no more calls than are answered.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from sia_runner.agents.llm.desk import clip
from sia_runner.records import Reply, ToolCall

MOST_CALLS = 16  # carried out of one message
_TEXT = 64 * 1024  # bytes of one message's text that are kept
_UNREADABLE = 200  # characters kept of arguments that are no JSON object


def sane(reply: Reply, turn: int) -> tuple[dict[str, Any], list[ToolCall]]:
    """Return the message to append, and its calls with the ids under which their results must be sent."""
    calls = [_named(call, turn, position) for position, call in enumerate(reply.tool_calls[:MOST_CALLS])]
    ids = [call.id for call in calls]
    if len(set(ids)) < len(ids):
        calls = [ToolCall(f"call_{turn}_{position}", call.name, call.arguments) for position, call in enumerate(calls)]
    message = _valid_text({**reply.message, "role": "assistant"})
    originals = message.pop("tool_calls", None)
    if calls:
        originals = originals if isinstance(originals, list) else []
        message["tool_calls"] = [_as_sent(call, _at(originals, position)) for position, call in enumerate(calls)]
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = clip(content, _TEXT)
    if not content:
        message["content"] = None if calls else "(nothing)"  # an empty message is refused by some providers
    return message, calls


def _named(call: ToolCall, turn: int, position: int) -> ToolCall:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", call.name)[:64] or "unnamed"
    # long ids are allowed: litellm keeps the signature of Gemini's thinking in them
    identifier = call.id if re.fullmatch(r"[!-~]{1,4096}", call.id or "") else f"call_{turn}_{position}"
    return ToolCall(identifier, name, str(_valid_text(call.arguments or "")))


def _as_sent(call: ToolCall, original: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the provider's additions to the call (a signature of its thinking), which it may require back."""
    function = {"name": call.name, "arguments": _object(call.arguments)}
    return {**original, "id": call.id, "type": "function", "function": function}


def _object(arguments: str) -> str:
    try:
        values = json.loads(arguments.strip() or "{}")
        if isinstance(values, dict):
            return json.dumps(_valid_text(values), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        pass
    return json.dumps({"unreadable": arguments[:_UNREADABLE]}, ensure_ascii=False)


def _at(originals: list[Any], position: int) -> Mapping[str, Any]:
    original = originals[position] if position < len(originals) else None
    return original if isinstance(original, dict) else {}


def _valid_text(value: Any) -> Any:
    """Return a copy in which half surrogate pairs, which cannot be sent, are question marks."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
