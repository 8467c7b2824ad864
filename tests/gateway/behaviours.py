"""Generated behaviours of a provider for one request: status, body and whether it is an answer.

A sound answer is built first, then one thing of it is spoilt in a way that no harness can cause. What is expected is
known from how the behaviour was made, not from reading it.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

SPOILT_REASONS = [
    *("error", "ERROR", "abort", "network_error", "insufficient_system_resource", "cancelled", "timeout", "unknown"),
    *("ERROR_LIMIT", "OTHER", "server_error", "overloaded"),
]
Api = Literal["openai", "anthropic"]
ENDS: dict[Api, list[str]] = {
    "openai": ["stop", "tool_calls", "content_filter"],
    "anthropic": ["end_turn", "stop_sequence", "tool_use", "refusal"],
}
ERRORS = st.one_of(
    st.sampled_from(["overloaded", True, 1, ["upstream"]]),
    st.fixed_dictionaries(
        {},
        optional={
            "message": st.sampled_from(["upstream failed", "", None, 5]),
            "code": st.sampled_from([None, 429, 500, 502, 503, 529, "429", "502", "rate_limit_exceeded", 0, -1, 10**9]),
            "type": st.sampled_from([None, "overloaded_error", "api_error", "server_error", 7]),
            "metadata": st.just({"raw": "x"}),
        },
    ).filter(bool),
)
# values where a text, an object or a list must be
WRONG_VALUES = st.sampled_from([None, 0, 5, True, "", "text", [], [None], {}, {"x": 1}])


@dataclass(frozen=True)
class Behaviour:
    """What comes back for one request; `sound` tells whether it is an answer of the model."""

    api: Api
    stream: bool
    sound: bool
    what: str
    status: int
    body: bytes


def _whole(api: Api, text: str, reason: Any) -> dict[str, Any]:
    if api == "openai":
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}
    content = [{"type": "text", "text": text}]
    head = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": content}
    return head | {"stop_reason": reason, "usage": {"input_tokens": 3, "output_tokens": 2}}


def _events(api: Api, text: str, reason: Any) -> list[dict[str, Any]]:
    if api == "openai":

        def chunk(delta: Any, finish: str | None = None) -> dict[str, Any]:
            return {
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            }

        pieces = [chunk({"content": letter}) for letter in text]
        usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
        return [chunk({"role": "assistant", "content": ""}), *pieces, chunk({}, reason), usage]
    start = {"id": "m", "type": "message", "model": "m", "content": [], "usage": {"input_tokens": 3}}
    deltas = [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": x}} for x in text]
    return [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]


def _sse(api: Api, events: list[Any], *, done: bool = True, name: str = "") -> bytes:
    lines = []
    for event in events:
        kind = name or (event.get("type", "") if api == "anthropic" and isinstance(event, dict) else "")
        lines.append((f"event: {kind}\n" if kind else "") + f"data: {json.dumps(event)}\n\n")
    return ("".join(lines) + ("data: [DONE]\n\n" if done and api == "openai" else "")).encode()


def _levels(api: Api, data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects of an answer or event in which providers were seen to put an error."""
    if api == "openai":
        choices = data["choices"]
        inner = [choices[0].get("message", choices[0].get("delta"))] if choices else []
        return [data, *choices, *inner]
    named = [data.get(name) for name in ("message", "content_block", "delta")]
    return [data, *(data.get("content") or []), *(level for level in named if level)]


def _status(draw: st.DrawFn, api: Api, stream: bool) -> Behaviour:
    status = draw(st.sampled_from([201, 204, 302, 400, 401, 403, 404, 408, 409, 422, 425, 429, 500, 502, 503, 529]))
    body = draw(st.sampled_from([b"", b"<html>", b"null", b"[]", b'{"error": null}', b'{"detail": "x"}']))
    return Behaviour(api, stream, False, f"status {status}", status, body)


def _bytes(draw: st.DrawFn, api: Api, stream: bool) -> Behaviour:
    bodies = [b"", b"null", b"[]", b"{}", b"true", b"<html>", b"data: ", b'{"choices": [', b"\xff"]
    body = draw(st.sampled_from(bodies))
    body = b"data: " + body + b"\n\n" if stream and draw(st.booleans()) else body
    return Behaviour(api, stream, False, f"bytes {body!r}", 200, body)


def _error(draw: st.DrawFn, api: Api, stream: bool) -> Behaviour:
    """Put an error object into any level of an answer, or of any event."""
    whole, events = _whole(api, _text(draw), _end(draw, api)), _events(api, _text(draw), _end(draw, api))
    levels = _levels(api, draw(st.sampled_from(events)) if stream else whole)
    error = draw(ERRORS)
    draw(st.sampled_from(levels))["error"] = error
    return _behaviour(api, stream, False, f"error {error!r}", whole, events)


def _error_event(draw: st.DrawFn, api: Api, stream: bool) -> Behaviour:
    error = draw(st.sampled_from([{"message": "upstream"}, {"type": "error", "error": None}, {"error": "x"}]))
    events = _events(api, _text(draw), _end(draw, api))
    events.insert(draw(st.integers(0, len(events) - 1)), error)
    body = _sse(api, events, name="error") if stream else json.dumps({"type": "error", **error}).encode()
    return Behaviour(api, stream, False, f"error event {error}", 200, body)


def _reason(draw: st.DrawFn, api: Api, stream: bool) -> Behaviour:
    """Give a finish reason that is no end of an answer. Some servers give none with a whole text: that is sound."""
    text, reason = _text(draw), draw(st.sampled_from([*SPOILT_REASONS, None, 0, True, [], {}]))
    sound = reason is None and bool(text) and not stream
    what = f"finish reason {reason!r}"
    return _behaviour(api, stream, sound, what, _whole(api, text, reason), _events(api, text, reason))


def _cut(draw: st.DrawFn, api: Api, stream: bool) -> Behaviour:
    """Cut a stream before the event that ends the answer, perhaps with an end mark; or the bytes of a whole answer."""
    reason = _end(draw, api)
    events, whole = _events(api, _text(draw), reason), json.dumps(_whole(api, _text(draw), reason)).encode()
    end = next(k for k, event in enumerate(events) if reason in json.dumps(event))
    keep = draw(st.integers(0, end if api == "openai" else len(events) - 1))
    closings: list[list[Any]] = [[], [{"choices": []}], [{"choices": [], "usage": {}}]] if api == "openai" else [[]]
    kept = [*events[:keep], *draw(st.sampled_from(closings))]
    body = _sse(api, kept, done=draw(st.booleans())) if stream else whole[: draw(st.integers(0, len(whole) - 1))]
    return Behaviour(api, stream, False, f"cut after {keep} events", 200, body)


def _value(draw: st.DrawFn, api: Api, stream: bool) -> Behaviour:
    """Put an empty, null or wrong value where the answer, or an event, must be."""
    whole, events, value = _whole(api, "A", _end(draw, api)), _events(api, "A", _end(draw, api)), draw(WRONG_VALUES)
    name = draw(
        st.sampled_from(["choices", "choice", "message", "content"] if api == "openai" else ["content", "text"])
    )
    of_text = name == "text" or (api == "openai" and name == "content")
    value = draw(st.sampled_from([0, 5, True, {"x": 1}])) if of_text else value
    places: dict[str, Any] = {"content": whole, "text": whole.get("content", [None])[0]}
    if api == "openai":
        choices = whole["choices"]
        places = {"choices": whole, "choice": choices, "message": choices[0], "content": choices[0]["message"]}
    if api == "anthropic" and value == []:
        value = None  # an empty list of blocks is an empty answer
    places[name][0 if name == "choice" else name] = value
    events = [events[0]] if isinstance(value, dict) else [value, *events]
    return _behaviour(api, stream, False, f"{name} {value!r}", whole, events)


def _sound(draw: st.DrawFn, api: Api, stream: bool) -> Behaviour:
    text, reason = _text(draw), _end(draw, api)
    return _behaviour(api, stream, True, "an answer", _whole(api, text, reason), _events(api, text, reason))


def _text(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(["", "A", "no such answer"]))


def _end(draw: st.DrawFn, api: Api) -> str:
    return draw(st.sampled_from(ENDS[api]))


def _behaviour(api: Api, stream: bool, sound: bool, what: str, whole: Any, events: list[Any]) -> Behaviour:
    return Behaviour(api, stream, sound, what, 200, _sse(api, events) if stream else json.dumps(whole).encode())


@st.composite
def behaviours(draw: st.DrawFn) -> Behaviour:
    """Draw one behaviour."""
    kind = draw(st.sampled_from([_sound, _status, _bytes, _error, _error_event, _reason, _cut, _value]))
    return kind(draw, draw(st.sampled_from(["openai", "anthropic"])), draw(st.booleans()))
