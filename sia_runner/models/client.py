"""Calls from this process: a proposer's, through the same desk as a harness's."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sia_runner.models.attempts import Desk
from sia_runner.models.endpoints import DIALECTS, Endpoint
from sia_runner.models.failures import Failed
from sia_runner.models.protocol import BudgetSpent, ModelsError, ProviderDown
from sia_runner.models.stay import Stay
from sia_runner.records import Reply, ToolCall

# Of an answer's message, what the next request is to repeat; signed thoughts must come back as they were.
_REPEATED = ("role", "content", "tool_calls", "thinking_blocks")
_FINISH = {"length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter"}


async def chat(
    desk: Desk,
    endpoint: Endpoint,
    stay: Stay,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
) -> Reply:
    """See protocol.Models.chat."""
    answer: list[bytes] = []

    async def emit(data: bytes) -> None:
        answer.append(data)

    given = {name: value for name, value in settings.items() if value is not None}
    body = {**given, "messages": list(messages), "stream": False} | ({"tools": list(tools)} if tools else {})
    try:
        asked = DIALECTS["openai"].prepare(body, endpoint.hosted)
        asked.question = stay.grant.question or asked.question
        await desk.serve(stay, endpoint, asked, emit)
    except Failed as failed:
        raise _raised(failed, endpoint) from None
    return _reply(_clean(json.loads(b"".join(answer))), stay)


def _clean(answer: Any) -> Any:
    """Without lone surrogates: JSON may escape them, no file can hold them."""
    return json.loads(json.dumps(answer, ensure_ascii=False).encode(errors="replace"))


def _reply(answer: Any, stay: Stay) -> Reply:
    summary = DIALECTS["openai"].read(answer)
    said = answer["choices"][0]["message"]
    message = {name: said[name] for name in _REPEATED if said.get(name) is not None}
    message |= {"role": "assistant"} | ({} if "content" in message else {"content": ""})
    calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in summary.tool_calls)
    finish = _FINISH.get(summary.finish_reason or "", "tool_calls" if calls else "stop")
    return Reply(summary.text, calls, finish, message, stay.usage())


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
