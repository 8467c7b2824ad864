"""The gateway's backend for a policy in this process or at a vLLM server."""

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

Settle = Callable[[Asked, Ask], Ask]  # sets what the runner decides: weights, temperature, seed
# Called with the sampled tokens on the gateway's loop, before the answer is sent.
Keep = Callable[[Asked, Sampled], None]
_TIMEOUT = 3600.0  # seconds: slow hardware may queue for long, and a retry would only lengthen the queue


class Served:
    """A backend (see endpoints.Backend) that answers requests of both APIs from a policy."""

    def __init__(self, answering: Answering, spec: PolicySpec, settle: Settle, keep: Keep) -> None:
        self._answering, self._spec, self._settle, self._keep = answering, spec, settle, keep

    async def ready(self) -> None:
        """Load the policy."""
        await asyncio.to_thread(self._answering.start)

    async def pieces(self, call: Asked) -> AsyncIterator[bytes]:
        """Make one attempt. Raises Failed.

        If the client disconnects, its request is cancelled unless its batch has started.
        """
        convert = openai_form.ask_of if call.api == "openai" else anthropic_form.ask_of
        request = self._settle(call, convert(call, self._spec))
        answer = await asyncio.wrap_future(self._answering.submit(request))
        self._keep(call, answer.sampled)
        if call.api == "openai":
            decode = self._answering.start().tokenizer.decode
            pieces = openai_form.pieces_of(call, answer, decode)
        else:
            pieces = anthropic_form.pieces_of(call, answer)
        for piece in pieces:
            yield piece


def endpoint(spec: PolicySpec, answering: Answering, settle: Settle, keep: Keep) -> Endpoint:
    """Return a role's endpoint for the gateway; a policy is free of charge."""
    served = Served(answering, spec, settle, keep)
    provider = hosted(spec)
    slots = asyncio.Semaphore(provider.concurrency)
    return Endpoint(provider, (), slots, Breaker(provider.name), {"openai": served, "anthropic": served})


def hosted(spec: PolicySpec) -> Hosted:
    """Return the policy as a provider, as the gateway and the ledger need it.

    In this process nothing is sent to the address, and there is one attempt: what failed once would fail again.
    """
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
