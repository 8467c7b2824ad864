"""The gateway's backend for a policy: conversion of requests and answers of both APIs, grants, and the preflight check.

No heavy imports. The policy runs in this process or at a vLLM server."""

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from sia_runner.config.components import HostedProvider, TokenPrices
from sia_runner.config.training import PolicyConfig
from sia_runner.gateway.backends import CircuitBreaker, Endpoint
from sia_runner.policy.vllm_client import VLLM_KEY_VARIABLE, VllmServer
from sia_runner.records import SampledCall
from sia_runner.wire import requests
from sia_runner.wire.failures import CallError
from sia_runner.wire.policy import (
    LIVE_WEIGHTS,
    PolicyAnswer,
    PolicyError,
    PolicyRequest,
    PolicyService,
    check_policy_packages,
)
from sia_runner.wire.providers import PROBE_SECONDS, EndpointProbe
from sia_runner.wire.requests import Body, ModelRequest, bad_request, boolean_field, dumps

# Options that would change the answer: refused by name rather than ignored.
_OPENAI_NOT_SERVED = (
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
_OPENAI_NEUTRAL = {"repetition_penalty": 1, "top_k": -1}  # values by which some clients say "not set"
_MAX_STOP_STRINGS, _MAX_STOP_LENGTH = 16, 256  # number of strings, and characters of each


def openai_request(call: ModelRequest, spec: PolicyConfig) -> PolicyRequest:
    """Convert an OpenAI request. Raises Failed (bad_request)."""
    body = call.body
    for name in _OPENAI_NOT_SERVED:
        if body.get(name) and body[name] != _OPENAI_NEUTRAL.get(name):
            raise bad_request(f"{name} is not served by the policy")
    response_format = body.get("response_format")
    if response_format is not None and response_format != {"type": "text"}:
        raise bad_request("response_format is not served by the policy, which answers with text")
    return PolicyRequest(
        messages=body["messages"],
        max_tokens=call.output_tokens,
        temperature=read_number(body, "temperature", spec.temperature, 2.0),
        top_p=read_number(body, "top_p", 1.0, 1.0),
        seed=_read_seed(body.get("seed")),
        stop=read_stop_strings(body.get("stop"), "stop"),
    )


def openai_response(call: ModelRequest, answer: PolicyAnswer, decode: Callable[[Sequence[int]], str]) -> list[bytes]:
    """Return the response: one JSON, or the events of a stream.

    `decode` shows a token as text.
    """
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": call.body["model"]}
    logprobs = _openai_logprobs(answer, decode) if boolean_field(call.body, "logprobs") else None
    usage, reason = _openai_usage(answer), answer.sampled.finish_reason
    if not call.stream:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}
        return [dumps(head | {"object": "chat.completion", "choices": [choice], "usage": usage})]
    head["object"] = "chat.completion.chunk"
    delta = {"role": "assistant", "content": answer.text}
    first = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason}
    chunks = [{"choices": [first]}, {"choices": [last]}, {"choices": [], "usage": usage}]
    return [*(requests.sse_event(dumps(head | chunk)) for chunk in chunks), requests.sse_event(b"[DONE]")]


def read_number(body: Body, name: str, default: float, limit: float) -> float:
    """Return a number from 0 to `limit` of the request, or `default`. Raises Failed (bad_request)."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
        raise bad_request(f"{name} must be a number from 0 to {limit:g}")
    return float(value)


def read_stop_strings(value: Any, name: str) -> tuple[str, ...]:
    """Return the stop strings of a request as a tuple. Raises Failed (bad_request)."""
    strings = [value] if isinstance(value, str) else value
    if strings is None:
        return ()
    if (
        not isinstance(strings, list)
        or len(strings) > _MAX_STOP_STRINGS
        or not all(isinstance(string, str) and 0 < len(string) <= _MAX_STOP_LENGTH for string in strings)
    ):
        raise bad_request(f"{name} must be at most {_MAX_STOP_STRINGS} strings of 1 to {_MAX_STOP_LENGTH} characters")
    return tuple(strings)


def _read_seed(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise bad_request("seed must be a whole number")
    return value


def _openai_usage(answer: PolicyAnswer) -> dict[str, int]:
    input_tokens, output_tokens = len(answer.sampled.prompt_ids), len(answer.sampled.completion_ids)
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
    }


def _openai_logprobs(answer: PolicyAnswer, decode: Callable[[Sequence[int]], str]) -> dict[str, Any]:
    sampled = answer.sampled
    tokens = [
        {"token": (text := decode([token])), "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
        for token, logprob in zip(sampled.completion_ids, sampled.logprobs, strict=True)
    ]
    return {"content": tokens, "refusal": None}


_ANTHROPIC_NOT_SERVED = ("tools", "thinking", "top_k")


def anthropic_request(call: ModelRequest, spec: PolicyConfig) -> PolicyRequest:
    """Convert an Anthropic request; this API has no seed. Raises Failed (bad_request)."""
    body = call.body
    for name in _ANTHROPIC_NOT_SERVED:
        if body.get(name) and body[name] != {"type": "disabled"}:
            raise bad_request(f"{name} is not served by the policy")
    if body["messages"][-1].get("role") == "assistant":
        raise bad_request("the policy cannot go on from an assistant's message: the last one has to be the user's")
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    return PolicyRequest(
        messages=[*system, *body["messages"]],
        max_tokens=call.output_tokens,
        temperature=read_number(body, "temperature", spec.temperature, 1.0),
        top_p=read_number(body, "top_p", 1.0, 1.0),
        stop=read_stop_strings(body.get("stop_sequences"), "stop_sequences"),
    )


def anthropic_response(call: ModelRequest, answer: PolicyAnswer) -> list[bytes]:
    """Return the response: one JSON, or the events of a stream."""
    text: Body = {"type": "text", "text": answer.text}
    reason = {"stop_reason": _anthropic_stop_reason(answer), "stop_sequence": None}
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
    return [requests.sse_event(dumps(event), str(event["type"])) for event in events]


def _anthropic_stop_reason(answer: PolicyAnswer) -> str:
    return "end_turn" if answer.sampled.finish_reason == "stop" else "max_tokens"


ApplyGrant = Callable[
    [ModelRequest, PolicyRequest], PolicyRequest
]  # sets what the runner decides: weights, temperature, seed
# Called with the sampled tokens on the gateway's loop, before the answer is sent.
RecordSample = Callable[[ModelRequest, SampledCall], None]
_REQUEST_TIMEOUT = 3600.0  # seconds: slow hardware may queue for long, and a retry would only lengthen the queue


class PolicyBackend:
    """A backend (see endpoints.Backend) that answers requests of both APIs from a policy."""

    def __init__(self, answering: PolicyService, spec: PolicyConfig, settle: ApplyGrant, keep: RecordSample) -> None:
        self._answering, self._spec, self._settle, self._keep = answering, spec, settle, keep

    async def ready(self) -> None:
        """Load the policy."""
        await asyncio.to_thread(self._answering.start)

    async def pieces(self, request: ModelRequest) -> AsyncIterator[bytes]:
        """Make one attempt. Raises Failed.

        If the client disconnects, its request is cancelled unless its batch has started.
        """
        convert = openai_request if request.api == "openai" else anthropic_request
        asked = self._settle(request, convert(request, self._spec))
        answer = await asyncio.wrap_future(self._answering.submit(asked))
        self._keep(request, answer.sampled)
        if request.api == "openai":
            decode = self._answering.start().tokenizer.decode
            pieces = openai_response(request, answer, decode)
        else:
            pieces = anthropic_response(request, answer)
        for piece in pieces:
            yield piece


def policy_endpoint(spec: PolicyConfig, answering: PolicyService, settle: ApplyGrant, keep: RecordSample) -> Endpoint:
    """Return a role's endpoint for the gateway; a policy is free of charge."""
    served = PolicyBackend(answering, spec, settle, keep)
    provider = policy_provider(spec)
    slots = asyncio.Semaphore(provider.concurrency)
    return Endpoint(provider, (), slots, CircuitBreaker(provider.name), {"openai": served, "anthropic": served})


def policy_provider(spec: PolicyConfig) -> HostedProvider:
    """Return the policy as a provider, as the gateway and the ledger need it.

    In this process nothing is sent to the address, and there is one attempt: what failed once would fail again.
    """
    remote = spec.backend == "vllm"
    return HostedProvider(
        name="vllm" if remote else "policy",
        kind="hosted",
        api="openai",
        litellm="openai",
        model=spec.base,
        base_url=spec.base_url if remote else "http://policy.invalid/v1",
        key=VLLM_KEY_VARIABLE if remote and os.environ.get(VLLM_KEY_VARIABLE) else None,
        concurrency=2 * spec.max_batch_size,  # one batch is answered while the next one gathers
        timeout=_REQUEST_TIMEOUT,
        attempts=5 if remote else 1,
        max_tokens=spec.max_tokens,
        prices=TokenPrices(input=0.0, output=0.0),
    )


def apply_grant(call: ModelRequest, request: PolicyRequest) -> PolicyRequest:
    """Apply the grant's weights, temperature and seed to a request.

    Rollouts are sampled at the training's temperature, each call with its own seed, derived from the grant's seed, the
    question and the number of earlier calls for it. A repeated run samples the same.
    """
    grant = call.grant
    if grant is None:
        return request
    request = replace(request, weights=LIVE_WEIGHTS if grant.live else grant.adapter)
    if grant.temperature is not None:
        request = replace(request, temperature=grant.temperature, top_p=1.0)
    if grant.seed is not None:
        digest = hashlib.sha256(f"{grant.seed} {call.question} {call.turn}".encode()).digest()
        request = replace(request, seed=int.from_bytes(digest[:4]) >> 1)
    return request


def record_sample(call: ModelRequest, sampled: SampledCall) -> None:
    """Store what was sampled on the request, for the gateway's record."""
    call.sampled = sampled


def check_policy(spec: PolicyConfig) -> None:
    """Check packages and server. Raises ModelsError, one line.

    Takes little more than SECONDS if the server does not answer.
    """
    check_policy_packages()
    if spec.backend == "vllm":
        EndpointProbe(policy_provider(spec)).answer(time.monotonic() + PROBE_SECONDS)
        server = VllmServer(str(spec.base_url))
        try:
            loads_adapters = server.loads_adapters(PROBE_SECONDS)
        except CallError as failed:
            raise PolicyError(f"provider vllm: {failed.message}") from None
        if not loads_adapters:
            raise PolicyError(
                f"provider vllm at {server.address} takes no adapters at run time; start it with --enable-lora "
                "--max-lora-rank 32 and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
            )
