"""Anthropic's messages: requests read, answers written, whole or as server-sent events."""

import json
from collections.abc import Iterator
from typing import Any

from tests.provider.answers import Answer, Request, Spent
from tests.provider.openai_api import arguments, text_of

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def key(headers: dict[str, str]) -> str:
    return headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")


def messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    told = [{"role": "system", "content": text_of(body["system"])}] if body.get("system") else []
    for message in body["messages"]:
        told += _unfold(message["role"], message["content"])
    return told


def _unfold(role: str, content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results = [
        {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text_of(block.get("content"))}
        for block in content
        if block["type"] == "tool_result"
    ]
    used = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": json.dumps(block["input"])},
        }
        for block in content
        if block["type"] == "tool_use"
    ]
    text = "".join(block["text"] for block in content if block["type"] == "text")
    said = [{"role": role, "content": text, **({"tool_calls": used} if used else {})}] if text or used else []
    return results + said


def tools(body: dict[str, Any]) -> tuple[str, ...]:
    return tuple(tool["name"] for tool in body.get("tools") or ())


def limit(body: dict[str, Any]) -> int | None:
    return body.get("max_tokens")


def finish(answer: Answer) -> str:
    reason = answer.finish_reason or ("tool_calls" if answer.tool_calls else "stop")
    return REASONS.get(reason, reason)


def usage(spent: Spent, output: int) -> dict[str, Any]:
    return {
        "input_tokens": spent.input - spent.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": spent.cached,
        "output_tokens": output,
        "service_tier": "standard",
    }


def head(request: Request) -> dict[str, Any]:
    return {"id": f"msg_{request.n}", "type": "message", "role": "assistant", "model": request.model}


def block(request: Request, i: int, name: str, given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{request.n}_{i}", "name": name, "input": given}


def whole(request: Request, answer: Answer, spent: Spent) -> bytes:
    content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if answer.text else []
    for i, (name, given) in enumerate(answer.tool_calls):
        content.append(block(request, i, name, given))
    ending = {"stop_reason": finish(answer), "stop_sequence": None}
    return json.dumps({**head(request), "content": content, **ending, "usage": usage(spent, spent.output)}).encode()


def event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def delta(index: int, **what: Any) -> bytes:
    return event("content_block_delta", index=index, delta=what)


def piece(request: Request, text: str) -> bytes:
    del request
    return delta(0, type="text_delta", text=text)


def opening(request: Request, spent: Spent) -> Iterator[bytes]:
    """What comes before the first piece of text."""
    start = {**head(request), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage(spent, 1)}
    yield event("message_start", message=start)
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield event("ping")


def closing(request: Request, answer: Answer, spent: Spent) -> Iterator[bytes]:
    """What comes after the last piece of text: tool calls as blocks of their own, then reason and usage."""
    yield event("content_block_stop", index=0)
    for i, (name, given) in enumerate(answer.tool_calls):
        yield event("content_block_start", index=i + 1, content_block=block(request, i, name, {}))
        text = arguments(given)
        for part in (text[: len(text) // 2], text[len(text) // 2 :]):
            yield delta(i + 1, type="input_json_delta", partial_json=part)
        yield event("content_block_stop", index=i + 1)
    ending = {"stop_reason": finish(answer), "stop_sequence": None}
    yield event("message_delta", delta=ending, usage={"output_tokens": spent.output})
    yield event("message_stop")


def error(code: int, message: str) -> bytes:
    kind = KINDS.get(code, "api_error")
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_0"}).encode()


def model(name: str) -> dict[str, Any]:
    return {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}


def models(names: tuple[str, ...]) -> dict[str, Any]:
    listed = [model(name) for name in names]
    return {
        "data": listed,
        "has_more": False,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }
