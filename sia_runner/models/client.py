"""Calls that this process makes itself, such as a proposer's; they share the path of a harness's calls."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sia_runner.models.attempts import Desk
from sia_runner.models.endpoints import DIALECTS, Endpoint
from sia_runner.models.failures import Failed
from sia_runner.models.protocol import BudgetSpent, ModelsError, ProviderDown
from sia_runner.models.stay import Stay
from sia_runner.records import Reply, ToolCall

# Fields of an answer's message that the next request repeats; signed thoughts must be returned unchanged.
_REPEATED = ("role", "content", "tool_calls", "thinking_blocks")
_FINISH = {"length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter"}


async def chat(
    runner: Desk,
    endpoint: Endpoint,
    session: Stay,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> Reply:
    """Make one call and return the reply; see `ModelAccess.chat`."""
    answer: list[bytes] = []

    async def emit(data: bytes) -> None:
        answer.append(data)

    options = {name: value for name, value in settings.items() if value is not None}
    body = {**options, "messages": list(messages), "stream": False} | ({"tools": list(tools)} if tools else {})
    try:
        request = DIALECTS["openai"].prepare(body, endpoint.hosted)
        request.question = session.grant.question or request.question
        await runner.serve(session, endpoint, request, emit)
    except Failed as failed:
        raise _raised(failed, endpoint) from None
    return _reply(_clean(json.loads(b"".join(answer))), session)


def _clean(answer: Any) -> Any:
    """Replace lone surrogates: JSON may escape them, but no file can hold them."""
    return json.loads(json.dumps(answer, ensure_ascii=False).encode(errors="replace"))


def _reply(answer: Any, session: Stay) -> Reply:
    summary = DIALECTS["openai"].read(answer)
    original = answer["choices"][0]["message"]
    message = {name: original[name] for name in _REPEATED if original.get(name) is not None}
    message |= {"role": "assistant"} | ({} if "content" in message else {"content": ""})
    calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in summary.tool_calls)
    finish = _FINISH.get(summary.finish_reason or "", "tool_calls" if calls else "stop")
    return Reply(summary.text, calls, finish, message, session.usage())


def _raised(failed: Failed, endpoint: Endpoint) -> Exception:
    if isinstance(failed.cause, BudgetSpent):
        return failed.cause
    name = endpoint.hosted.name
    if endpoint.breaker.reason is not None:
        return ProviderDown(endpoint.breaker.reason)
    line = " ".join(failed.message.split())
    if failed.kind == "bad_request":
        return ModelsError(f"provider {name} refuses the request: {line}")
    return ProviderDown(f"provider {name}: {line}")
