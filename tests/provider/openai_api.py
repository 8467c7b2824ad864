"""OpenAI's chat completions: requests read, answers written, whole or as server-sent events."""

import json
import time
from collections.abc import Iterator
from typing import Any

from tests.provider.answers import Answer, Request, Spent

DONE = b"data: [DONE]\n\n"


def key(headers: dict[str, str]) -> str:
    return headers.get("authorization", "").removeprefix("Bearer ")


def text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**message, "content": text_of(message.get("content"))} for message in body["messages"]]


def tools(body: dict[str, Any]) -> tuple[str, ...]:
    return tuple(tool["function"]["name"] for tool in body.get("tools") or ())


def limit(body: dict[str, Any]) -> int | None:
    return body.get("max_completion_tokens") or body.get("max_tokens")


def arguments(given: dict[str, Any] | str) -> str:
    return given if isinstance(given, str) else json.dumps(given)


def finish(answer: Answer) -> str:
    return answer.finish_reason or ("tool_calls" if answer.tool_calls else "stop")


def usage(spent: Spent) -> dict[str, Any]:
    return {
        "prompt_tokens": spent.input,
        "completion_tokens": spent.output,
        "total_tokens": spent.input + spent.output,
        "prompt_tokens_details": {"cached_tokens": spent.cached},
    }


def calls(request: Request, answer: Answer) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{request.n}_{i}", "type": "function", "function": {"name": name, "arguments": arguments(given)}}
        for i, (name, given) in enumerate(answer.tool_calls)
    ]


def whole(request: Request, answer: Answer, spent: Spent) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = calls(request, answer)
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish(answer)}
    envelope = head(request, "chat.completion")
    return json.dumps({**envelope, "choices": [choice], "usage": usage(spent)}).encode()


def head(request: Request, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{request.n}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
        "system_fingerprint": "fp_scripted",
    }


def event(request: Request, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return line({**head(request, "chat.completion.chunk"), "choices": [choice]})


def line(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


def piece(request: Request, text: str) -> bytes:
    return event(request, {"content": text})


def opening(request: Request, spent: Spent) -> Iterator[bytes]:
    """What comes before the first piece of text."""
    del spent
    yield event(request, {"role": "assistant", "content": ""})


def closing(request: Request, answer: Answer, spent: Spent) -> Iterator[bytes]:
    """What comes after the last piece of text: tool calls in deltas, the finish reason, usage where asked for."""
    for i, call in enumerate(calls(request, answer)):
        given = call["function"]["arguments"]
        yield event(request, {"tool_calls": [{**call, "index": i, "function": {**call["function"], "arguments": ""}}]})
        for part in (given[: len(given) // 2], given[len(given) // 2 :]):
            yield event(request, {"tool_calls": [{"index": i, "function": {"arguments": part}}]})
    yield event(request, {}, finish(answer))
    if (request.body.get("stream_options") or {}).get("include_usage"):
        yield line({**head(request, "chat.completion.chunk"), "choices": [], "usage": usage(spent)})
    yield DONE


def error(code: int, message: str) -> bytes:
    kinds = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}
    kind = "invalid_request_error" if code < 500 else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": kinds.get(code)}}).encode()


def model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "tests"}


def models(names: tuple[str, ...]) -> dict[str, Any]:
    return {"object": "list", "data": [model(name) for name in names]}
