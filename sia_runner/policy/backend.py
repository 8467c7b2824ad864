"""The gateway's backend for a policy: conversion of requests and answers of both APIs, grants, and the preflight check.

No heavy imports. The policy runs in this process, at a vLLM server, or at a Tinker service.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_runner.config.base import is_custom
from sia_runner.config.components import HostedProvider, TokenPrices
from sia_runner.config.training import PolicyConfig, TrainingPrices
from sia_runner.policy.vllm_client import VLLM_KEY_VARIABLE, VllmServer
from sia_runner.records import SampledCall, as_object
from sia_runner.system import bundled_folder
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import ModelsError
from sia_runner.wire.policy import (
    LIVE_WEIGHTS,
    PolicyError,
    PolicyRequest,
    PolicyService,
    check_policy_packages,
    check_tinker_packages,
)
from sia_runner.wire.providers import PROBE_SECONDS, EndpointProbe, is_private, key_of
from sia_runner.wire.requests import Body, ModelRequest, bad_request

if TYPE_CHECKING:
    from sia_runner.policy.tinker_client import TinkerClient

# Options that would change the answer: refused by name rather than ignored, except for values that mean "not set".
_OPENAI_NAMES = """
    functions logit_bias top_logprobs presence_penalty frequency_penalty min_p min_tokens stop_token_ids
    ignore_eos chat_template_kwargs
"""
_OPENAI_NOT_SERVED = dict.fromkeys(_OPENAI_NAMES.split()) | {"top_k": -1, "repetition_penalty": 1}
_OPENAI_NOT_SERVED |= {"tool_choice": "auto"}  # whether it calls one is the model's choice
_EFFORTS = ("low", "medium", "high")
_ANTHROPIC_NOT_SERVED = {"tools": None, "thinking": {"type": "disabled"}, "top_k": None}
_MAX_STOP_STRINGS, _MAX_STOP_LENGTH = 16, 256  # number of strings, and characters of each


def _policy_request(call: ModelRequest, spec: PolicyConfig) -> PolicyRequest:
    """Convert a request of either API; Anthropic's has no seed."""
    body, is_openai = call.body, call.api == "openai"
    for name, unset in (_OPENAI_NOT_SERVED if is_openai else _ANTHROPIC_NOT_SERVED).items():
        if body.get(name) and body[name] != unset:
            raise bad_request(f"{name} is not served by the policy")
    messages, seed = body["messages"], body.get("seed") if is_openai else None
    if is_openai:
        if body.get("response_format") not in (None, {"type": "text"}):
            raise bad_request("response_format is not served by the policy, which answers with text")
        if body.get("reasoning_effort") not in (None, *_EFFORTS):
            raise bad_request(f"reasoning_effort must be one of {', '.join(_EFFORTS)}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise bad_request("seed must be a whole number")
    elif messages[-1].get("role") == "assistant":
        raise bad_request("the policy cannot go on from an assistant's message: the last one has to be the user's")
    elif body.get("system"):
        messages = [{"role": "system", "content": body["system"]}, *messages]
    return PolicyRequest(
        messages=messages,
        max_tokens=call.output_tokens,
        temperature=_read_number(body, "temperature", spec.temperature, 2.0 if is_openai else 1.0),
        top_p=_read_number(body, "top_p", 1.0, 1.0),
        seed=seed,
        stop=_read_stop_strings(body, "stop" if is_openai else "stop_sequences"),
        tools=_read_tools(body) if is_openai else (),
        reasoning_effort=body.get("reasoning_effort") if is_openai else None,
    )


def _read_tools(body: Body) -> tuple[Mapping[str, Any], ...]:
    """Return the functions that a request offers to the model."""
    tools = tuple(body.get("tools") or ())
    for tool in tools:
        if tool.get("type") != "function" or not isinstance(as_object(tool.get("function")).get("name"), str):
            raise bad_request("tools of the policy are functions with a name: {type: function, function: {name: …}}")
    return tools


def _read_number(body: Body, name: str, default: float, limit: float) -> float:
    """Return a number from 0 to `limit` of the request, or `default`."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
        raise bad_request(f"{name} must be a number from 0 to {limit:g}")
    return float(value)


def _read_stop_strings(body: Body, name: str) -> tuple[str, ...]:
    value = body.get(name)
    strings = [value] if isinstance(value, str) else value
    if strings is None:
        return ()
    fits = isinstance(strings, list) and len(strings) <= _MAX_STOP_STRINGS
    if not fits or not all(isinstance(string, str) and 0 < len(string) <= _MAX_STOP_LENGTH for string in strings):
        raise bad_request(f"{name} must be at most {_MAX_STOP_STRINGS} strings of 1 to {_MAX_STOP_LENGTH} characters")
    return tuple(strings)


TINKER_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"  # the hosted service
_REQUEST_TIMEOUT = 3600.0  # seconds: slow hardware may queue for long, and a retry would only lengthen the queue


class PolicyBackend:
    """A policy behind the gateway (see gateway.backends.ServedPolicy): answers requests of both APIs."""

    def __init__(self, spec: PolicyConfig, service: PolicyService, *, starts_here: bool = True) -> None:
        """Take the policy; `starts_here`: servers that the run starts are processes of this machine."""
        self.hosted, self._spec, self._service = policy_provider(spec), spec, service
        self._starts_here = starts_here
        prices = training_prices(spec)
        self.training = prices and TokenPrices(input=prices.prefill, output=prices.train)

    def check(self) -> None:
        """Check packages and server. Raises ModelsError."""
        check_policy(self._spec, starts_here=self._starts_here)

    def start(self) -> Any:
        """Return the policy, loaded on first use. Raises PolicyError."""
        return self._service.start()

    @property
    def interruptions(self) -> int:
        """The number of times that a request had to wait, or to be sent again, because a server of the run ended."""
        return getattr(self._service, "interruptions", 0)  # a policy in this process, or of the user's own, has none

    def close(self) -> None:
        """Stop answering and free what the policy holds."""
        self._service.close()

    def decode(self, ids: Sequence[int]) -> str:
        """Return tokens as text."""
        return self.start().tokenizer.decode(ids)

    def submit(self, request: ModelRequest) -> Future[SampledCall]:
        """Queue a request with its grant's weights, temperature and seed. Raises CallError, as the future does.

        Each call of a rollout has its own seed, from the grant's seed, the question and the number of earlier calls for
        it, so that a repeated run samples the same.
        """
        converted, grant = _policy_request(request, self._spec), request.grant
        if grant is not None:
            converted = replace(converted, weights=LIVE_WEIGHTS if grant.live else grant.adapter)
            if grant.temperature is not None:
                converted = replace(converted, temperature=grant.temperature, top_p=1.0)
            if grant.seed is not None:
                digest = hashlib.sha256(f"{grant.seed} {request.question} {request.turn}".encode()).digest()
                converted = replace(converted, seed=int.from_bytes(digest[:4]) >> 1)
        return self._service.submit(converted)


def policy_provider(spec: PolicyConfig) -> HostedProvider:
    """Return the policy as a provider; in this process nothing is sent, and what failed once would fail again."""
    if spec.backend == "tinker":
        return _tinker_provider(spec)
    remote = spec.backend == "vllm"
    return HostedProvider(
        name="vllm" if remote else "policy",
        kind="hosted",
        api="openai",
        litellm="openai",
        model=spec.base,
        base_url=spec.base_url if remote and spec.base_url else "http://policy.invalid/v1",
        key=VLLM_KEY_VARIABLE if remote and spec.base_url and os.environ.get(VLLM_KEY_VARIABLE) else None,
        concurrency=2 * spec.max_batch_size,  # one batch is answered while the next one gathers
        timeout=_REQUEST_TIMEOUT,
        attempts=5 if remote else 1,
        max_tokens=spec.max_tokens,
        prices=TokenPrices(input=0.0, output=0.0),
    )


def _tinker_provider(spec: PolicyConfig) -> HostedProvider:
    settings, prices = spec.tinker, training_prices(spec)
    return HostedProvider(
        name="tinker",
        kind="hosted",
        api="openai",
        litellm="openai",
        model=spec.base,
        base_url=tinker_url(spec),
        key=settings.key,
        key_file=settings.key_file,
        concurrency=settings.concurrency,
        timeout=settings.timeout * 2,  # a sample may wait for a model to be loaded; the client has timeouts of its own
        attempts=2,  # the package retries by itself
        max_tokens=spec.max_tokens,
        prices=prices and TokenPrices(input=prices.prefill, output=prices.sample),
    )


def tinker_url(spec: PolicyConfig) -> str:
    """Return the address of the service."""
    return spec.base_url or os.environ.get("TINKER_BASE_URL") or TINKER_URL


def tinker_client(spec: PolicyConfig) -> "TinkerClient":
    """Return a client of the service, which has not connected yet. Raises ModelsError where the key is missing."""
    from sia_runner.policy.tinker_client import TinkerClient

    hosted, key = policy_provider(spec), None
    if not is_private(tinker_url(spec)) or hosted.key_file or os.environ.get(hosted.key or ""):
        try:
            key = key_of(hosted)
        except ModelsError as error:
            own = str(error).replace("provider.key_file", "target_agent.policy.tinker.key_file")
            raise ModelsError(own) from None
    return TinkerClient(tinker_url(spec), key, spec.tinker.timeout, spec.tinker.row_multiple)


def training_prices(spec: PolicyConfig) -> TrainingPrices | None:
    """Return what a policy's tokens cost; None where that is not known, which is not the same as nothing."""
    if spec.backend != "tinker":
        return TrainingPrices(prefill=0.0, sample=0.0, train=0.0)
    if spec.tinker.prices is not None:
        return spec.tinker.prices
    if is_private(tinker_url(spec)):
        return TrainingPrices(prefill=0.0, sample=0.0, train=0.0)
    if tinker_url(spec).rstrip("/") != TINKER_URL:
        return None  # another company's service
    entry = as_object(_price_table()["models"]).get(spec.base)
    return None if entry is None else TrainingPrices(**entry)


def price_date() -> str:
    """Return the month of the shipped table of prices."""
    return str(_price_table()["dated"])


def _price_table() -> Mapping[str, Any]:
    import yaml

    return yaml.safe_load((bundled_folder("conf") / "prices" / "tinker.yaml").read_text(encoding="utf-8"))


def check_policy(spec: PolicyConfig, *, starts_here: bool = True) -> None:
    """Check packages and server, in little more than PROBE_SECONDS. Raises ModelsError, one line.

    `starts_here`: servers that the run starts are processes of this machine; on another one modules may bring vLLM.
    """
    if is_custom(spec.backend):
        return  # it says itself what it lacks, when it starts
    if spec.backend == "tinker":
        check_tinker_packages()
        try:
            tinker_client(spec).check(5 * PROBE_SECONDS)
        except CallError as failed:
            raise PolicyError(f"policy=tinker: {failed.message}") from None
        return
    check_policy_packages()
    if spec.backend == "vllm" and spec.base_url is None:
        program = spec.vllm.command[0]
        if starts_here and shutil.which(Path(program).expanduser()) is None:
            raise PolicyError(
                f"target_agent.policy.vllm.command: no program {program} here; give the one that starts vLLM, or "
                "target_agent.policy.base_url of a server that runs"
            )
    elif spec.backend == "vllm":
        # the policy itself keeps completions within the context
        EndpointProbe(policy_provider(spec).model_copy(update={"max_tokens": 1})).answer()
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
