"""Anthropic messages for a policy: conversion of requests and of answers."""

import uuid
from typing import Any

from sia_runner.models import sse
from sia_runner.models.policy.ask import Answer, Ask
from sia_runner.models.policy.openai_form import number, stops
from sia_runner.models.refusals import bad_request
from sia_runner.models.wire import Asked, Body, dumps
from sia_runner.schema.training import PolicySpec

_NOT_SERVED = ("tools", "thinking", "top_k")


def ask_of(call: Asked, spec: PolicySpec) -> Ask:
    """Convert an Anthropic request; this API has no seed. Raises Failed (bad_request)."""
    body = call.body
    for name in _NOT_SERVED:
        if body.get(name) and body[name] != {"type": "disabled"}:
            raise bad_request(f"{name} is not served by the policy")
    if body["messages"][-1].get("role") == "assistant":
        raise bad_request("the policy cannot go on from an assistant's message: the last one has to be the user's")
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    return Ask(
        messages=[*system, *body["messages"]],
        max_tokens=call.output_tokens,
        temperature=number(body, "temperature", spec.temperature, 1.0),
        top_p=number(body, "top_p", 1.0, 1.0),
        stop=stops(body.get("stop_sequences"), "stop_sequences"),
    )


def pieces_of(call: Asked, answer: Answer) -> list[bytes]:
    """Return the response: one JSON, or the events of a stream."""
    text: Body = {"type": "text", "text": answer.text}
    reason = {"stop_reason": _reason(answer), "stop_sequence": None}
    output_usage = {"output_tokens": len(answer.sampled.completion_ids)}
    message: dict[str, Any] = {
        "id": f"msg_{uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": call.body["model"],
        "content": [text],
        **reason,
        "usage": {"input_tokens": len(answer.sampled.prompt_ids), **output_usage},
    }
    if not call.stream:
        return [dumps(message)]
    events: list[Body] = [
        {"type": "message_start", "message": message | {"content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": answer.text}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": reason, "usage": output_usage},
        {"type": "message_stop"},
    ]
    return [sse.event(dumps(event), str(event["type"])) for event in events]


def _reason(answer: Answer) -> str:
    return "end_turn" if answer.sampled.finish_reason == "stop" else "max_tokens"
