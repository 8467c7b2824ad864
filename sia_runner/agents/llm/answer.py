"""The model's message as it may stand in the next request, and the tool calls to carry out.

Whatever a model wrote, what is sent must be a valid conversation: names and ids that providers take, arguments that
are a JSON object (a translation to another API parses them), and not more calls than can be answered.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from sia_runner.agents.llm.desk import clip
from sia_runner.records import Reply, ToolCall

MOST_CALLS = 16  # of one message that are carried out
_TEXT = 64 * 1024  # bytes of one message's text that are kept
_UNREADABLE = 200  # characters kept of arguments that are no JSON object


def sane(reply: Reply, turn: int) -> tuple[dict[str, Any], list[ToolCall]]:
    """The message to append, and its calls with the ids under which their results must be sent."""
    calls = [_named(call, turn, place) for place, call in enumerate(reply.tool_calls[:MOST_CALLS])]
    ids = [call.id for call in calls]
    if len(set(ids)) < len(ids):
        calls = [ToolCall(f"call_{turn}_{place}", call.name, call.arguments) for place, call in enumerate(calls)]
    message = _valid_text({**reply.message, "role": "assistant"})
    originals = message.pop("tool_calls", None)
    if calls:
        originals = originals if isinstance(originals, list) else []
        message["tool_calls"] = [_as_sent(call, _at(originals, place)) for place, call in enumerate(calls)]
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = clip(content, _TEXT)
    if not content:
        message["content"] = None if calls else "(nothing)"  # an empty message is refused by some providers
    return message, calls


def _named(call: ToolCall, turn: int, place: int) -> ToolCall:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", call.name)[:64] or "unnamed"
    # long ids are no fault: litellm keeps the signature of Gemini's thinking in them
    identifier = call.id if re.fullmatch(r"[!-~]{1,4096}", call.id or "") else f"call_{turn}_{place}"
    return ToolCall(identifier, name, str(_valid_text(call.arguments or "")))


def _as_sent(call: ToolCall, original: Mapping[str, Any]) -> dict[str, Any]:
    """With what the provider added to the call (a signature of its thinking), which it may want back."""
    function = {"name": call.name, "arguments": _object(call.arguments)}
    return {**original, "id": call.id, "type": "function", "function": function}


def _object(arguments: str) -> str:
    try:
        given = json.loads(arguments.strip() or "{}")
        if isinstance(given, dict):
            return json.dumps(_valid_text(given), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        pass
    return json.dumps({"unreadable": arguments[:_UNREADABLE]}, ensure_ascii=False)


def _at(originals: list[Any], place: int) -> Mapping[str, Any]:
    original = originals[place] if place < len(originals) else None
    return original if isinstance(original, dict) else {}


def _valid_text(value: Any) -> Any:
    """A copy in which halves of surrogate pairs, which cannot be sent, are question marks."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))
