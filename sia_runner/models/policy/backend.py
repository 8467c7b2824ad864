"""The gateway's backend for a policy in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable

from sia_runner.models.breaker import Breaker
from sia_runner.models.endpoints import Endpoint
from sia_runner.models.policy import anthropic_form, openai_form
from sia_runner.models.policy.ask import Ask
from sia_runner.models.policy.batching import Batching
from sia_runner.models.wire import Asked
from sia_runner.provider_config import Hosted, Prices
from sia_runner.records import Sampled
from sia_runner.training_config import PolicySpec

Settle = Callable[[Asked, Ask], Ask]  # what the runner decides of a request: weights, rollout temperature, seed
Keep = Callable[[Asked, Sampled], None]  # told what was sampled for it, on the gateway's loop, before it is answered
_TIMEOUT = 3600.0  # seconds: a queue on slow hardware is no fault, and asking again would only make it longer


class Served:
    """See endpoints.Backend; answers requests of both APIs."""

    def __init__(self, batching: Batching, spec: PolicySpec, settle: Settle, keep: Keep) -> None:
        self._batching, self._spec, self._settle, self._keep = batching, spec, settle, keep

    async def ready(self) -> None:
        await asyncio.to_thread(self._batching.start)

    async def pieces(self, asked: Asked) -> AsyncIterator[bytes]:
        """One attempt. Raises Failed. A client that leaves takes its request with it, if its batch has not begun."""
        form = openai_form if asked.api == "openai" else anthropic_form
        ask = self._settle(asked, form.ask_of(asked, self._spec))
        answer = await asyncio.wrap_future(self._batching.submit(ask))
        self._keep(asked, answer.sampled)
        if asked.api == "openai":
            decode = self._batching.start().tokenizer.decode
            pieces = openai_form.pieces_of(asked, answer, decode)
        else:
            pieces = anthropic_form.pieces_of(asked, answer)
        for piece in pieces:
            yield piece


def endpoint(spec: PolicySpec, batching: Batching, settle: Settle, keep: Keep) -> Endpoint:
    """A role's model, for the gateway: it is free of charge, and no request leaves this process."""
    served = Served(batching, spec, settle, keep)
    slots = asyncio.Semaphore(2 * spec.batch)  # one batch is answered while the next one gathers
    return Endpoint(hosted(spec), (), slots, Breaker("policy"), {"openai": served, "anthropic": served})


def hosted(spec: PolicySpec) -> Hosted:
    """The policy as a provider: what the gateway and the ledger ask of one. The address is never opened."""
    return Hosted(
        name="policy",
        kind="hosted",
        api="openai",
        litellm="openai",
        model=spec.base,
        base_url="http://policy.invalid/v1",
        concurrency=2 * spec.batch,
        timeout=_TIMEOUT,
        attempts=1,
        max_tokens=spec.max_tokens,
        prices=Prices(input=0.0, output=0.0),
    )
