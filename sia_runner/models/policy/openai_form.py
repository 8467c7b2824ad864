"""OpenAI chat completions for a policy: conversion of requests and of answers."""

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from sia_runner.models import sse
from sia_runner.models.policy.ask import Answer, Ask
from sia_runner.models.refusals import bad_request, flag
from sia_runner.models.wire import Asked, Body, dumps
from sia_runner.schema.training import PolicySpec

# Options that would change the answer: refused by name rather than ignored.
_NOT_SERVED = (
    "tools",
    "functions",
    "logit_bias",
    "top_logprobs",
    "presence_penalty",
    "frequency_penalty",
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "stop_token_ids",
    "ignore_eos",
    "chat_template_kwargs",
    "reasoning_effort",
)
_NEUTRAL = {"repetition_penalty": 1, "top_k": -1}  # values by which some clients say "not set"
_MOST_STOPS, _LONGEST_STOP = 16, 256  # number of strings, and characters of each


def ask_of(call: Asked, spec: PolicySpec) -> Ask:
    """Convert an OpenAI request. Raises Failed (bad_request)."""
    body = call.body
    for name in _NOT_SERVED:
        if body.get(name) and body[name] != _NEUTRAL.get(name):
            raise bad_request(f"{name} is not served by the policy")
    response_format = body.get("response_format")
    if response_format is not None and response_format != {"type": "text"}:
        raise bad_request("response_format is not served by the policy, which answers with text")
    return Ask(
        messages=body["messages"],
        max_tokens=call.output_tokens,
        temperature=number(body, "temperature", spec.temperature, 2.0),
        top_p=number(body, "top_p", 1.0, 1.0),
        seed=_seed(body.get("seed")),
        stop=stops(body.get("stop"), "stop"),
    )


def pieces_of(call: Asked, answer: Answer, decode: Callable[[Sequence[int]], str]) -> list[bytes]:
    """Return the response: one JSON, or the events of a stream.

    `decode` shows a token as text.
    """
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": call.body["model"]}
    logprobs = _logprobs(answer, decode) if flag(call.body, "logprobs") else None
    usage, reason = _usage(answer), answer.sampled.finish_reason
    if not call.stream:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}
        return [dumps(head | {"object": "chat.completion", "choices": [choice], "usage": usage})]
    head["object"] = "chat.completion.chunk"
    delta = {"role": "assistant", "content": answer.text}
    first = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}
    chunks = [{"choices": [first]}, {"choices": [last]}, {"choices": [], "usage": usage}]
    return [*(sse.event(dumps(head | chunk)) for chunk in chunks), sse.event(b"[DONE]")]


def number(body: Body, name: str, default: float, limit: float) -> float:
    """Return a number from 0 to `limit` of the request, or `default`. Raises Failed (bad_request)."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
        raise bad_request(f"{name} must be a number from 0 to {limit:g}")
    return float(value)


def stops(value: Any, name: str) -> tuple[str, ...]:
    """Return the stop strings of a request as a tuple. Raises Failed (bad_request)."""
    strings = [value] if isinstance(value, str) else value
    if strings is None:
        return ()
    if (
        not isinstance(strings, list)
        or len(strings) > _MOST_STOPS
        or not all(isinstance(string, str) and 0 < len(string) <= _LONGEST_STOP for string in strings)
    ):
        raise bad_request(f"{name} must be at most {_MOST_STOPS} strings of 1 to {_LONGEST_STOP} characters")
    return tuple(strings)


def _seed(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise bad_request("seed must be a whole number")
    return value


def _usage(answer: Answer) -> dict[str, int]:
    input_tokens, output_tokens = len(answer.sampled.prompt_ids), len(answer.sampled.completion_ids)
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }


def _logprobs(answer: Answer, decode: Callable[[Sequence[int]], str]) -> dict[str, Any]:
    sampled = answer.sampled
    tokens = [
        {"token": (text := decode([token])), "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
        for token, logprob in zip(sampled.completion_ids, sampled.logprobs, strict=True)
    ]
    return {"content": tokens, "refusal": None}
