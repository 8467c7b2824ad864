"""The gateway's backend for a policy: in this process, or at a vLLM server."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable

from sia_runner.models.breaker import Breaker
from sia_runner.models.endpoints import Endpoint
from sia_runner.models.policy import anthropic_form, openai_form
from sia_runner.models.policy.ask import Answering, Ask
from sia_runner.models.policy.vllm_api import KEY
from sia_runner.models.wire import Asked
from sia_runner.records import Sampled
from sia_runner.schema.provider import Hosted, Prices
from sia_runner.schema.training import PolicySpec

Settle = Callable[[Asked, Ask], Ask]  # what the runner decides of a request: weights, rollout temperature, seed
Keep = Callable[[Asked, Sampled], None]  # told what was sampled for it, on the gateway's loop, before it is answered
_TIMEOUT = 3600.0  # seconds: a queue on slow hardware is no fault, and asking again would only make it longer


class Served:
    """See endpoints.Backend; answers requests of both APIs."""

    def __init__(self, answering: Answering, spec: PolicySpec, settle: Settle, keep: Keep) -> None:
        self._answering, self._spec, self._settle, self._keep = answering, spec, settle, keep

    async def ready(self) -> None:
        await asyncio.to_thread(self._answering.start)

    async def pieces(self, asked: Asked) -> AsyncIterator[bytes]:
        """One attempt. Raises Failed. A client that leaves takes its request with it, if its batch has not begun."""
        form = openai_form if asked.api == "openai" else anthropic_form
        ask = self._settle(asked, form.ask_of(asked, self._spec))
        answer = await asyncio.wrap_future(self._answering.submit(ask))
        self._keep(asked, answer.sampled)
        if asked.api == "openai":
            decode = self._answering.start().tokenizer.decode
            pieces = openai_form.pieces_of(asked, answer, decode)
        else:
            pieces = anthropic_form.pieces_of(asked, answer)
        for piece in pieces:
            yield piece


def endpoint(spec: PolicySpec, answering: Answering, settle: Settle, keep: Keep) -> Endpoint:
    """A role's model, for the gateway: it is free of charge."""
    served = Served(answering, spec, settle, keep)
    provider = hosted(spec)
    slots = asyncio.Semaphore(provider.concurrency)
    return Endpoint(provider, (), slots, Breaker(provider.name), {"openai": served, "anthropic": served})


def hosted(spec: PolicySpec) -> Hosted:
    """The policy as a provider: what the gateway and the ledger ask of one. In this process nothing is sent to the
    address, and what failed once fails again."""
    remote = spec.backend == "vllm"
    return Hosted(
        name="vllm" if remote else "policy",
        kind="hosted",
        api="openai",
        litellm="openai",
        model=spec.base,
        base_url=spec.base_url if remote else "http://policy.invalid/v1",
        key=KEY if remote and os.environ.get(KEY) else None,
        concurrency=2 * spec.batch,  # one batch is answered while the next one gathers
        timeout=_TIMEOUT,
        attempts=5 if remote else 1,
        max_tokens=spec.max_tokens,
        prices=Prices(input=0.0, output=0.0),
    )
