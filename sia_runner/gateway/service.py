"""Model access of one process: keys, ledger and gateway, behind a thread with an event loop."""

import asyncio
import importlib.util
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sia_runner.config.components import HostedProvider
from sia_runner.config.experiment import BudgetConfig
from sia_runner.gateway.ledger import RunLedger
from sia_runner.gateway.prices import Rates, price_of
from sia_runner.records import ModelReply, Usage
from sia_runner.wire.grants import BudgetFullyReserved, BudgetSpent, Grant, ModelKey, ModelsError, ProviderDown
from sia_runner.wire.providers import EndpointProbe, key_of
from sia_runner.wire.requests import Objects

if TYPE_CHECKING:
    from sia_runner.gateway.backends import ServedPolicy
    from sia_runner.gateway.session import GatewaySession, HostService

_PACKAGES = ("litellm", "aiohttp")
_LOADING = Grant("learner", 0, "adapter", "train", None)  # pays for an adapter that a service loads to answer
_BUDGET_POLL = 0.5  # seconds until a training call asks for budget again
_Result = TypeVar("_Result")


def check_providers(providers: Mapping[ModelKey, HostedProvider], budget: BudgetConfig) -> None:
    """Check the providers of all roles side by side, each endpoint once. Raises ModelsError."""
    check_installed()
    for hosted in providers.values():
        key_of(hosted)
        check_price(hosted, budget)
    distinct = {(h.name, h.base_url, h.model, h.key): h for h in providers.values()}
    for probe in [EndpointProbe(hosted) for hosted in distinct.values()]:
        probe.answer()


def check_installed() -> None:
    """Raise ModelsError where a package is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelsError(f"provider=… needs {' and '.join(missing)}; pip install 'sia-runner[models]'")


def check_price(hosted: HostedProvider, budget: BudgetConfig) -> None:
    """Raise ModelsError where the budget is in dollars and the model's price is not known."""
    limited = budget.usd is not None or budget.generation.usd is not None
    if limited and price_of(hosted) is None:
        raise ModelsError(
            f"provider {hosted.name}: prices of {hosted.model} are not known; give provider.prices.input and .output "
            "in USD per million tokens, or limit budget.tokens"
        )


class GatewayService:
    """Gives the runner and its sandboxes access to models; one per process and run. `folder` is RUN/ledger."""

    def __init__(
        self,
        providers: Mapping[ModelKey, HostedProvider],
        folder: Path,
        budget: BudgetConfig,
        cache: Path,
        *,
        share: float = 1.0,
        held_back: Callable[[], Usage] | None = None,
        policy: "ServedPolicy | None" = None,
    ) -> None:
        """Build the ledger; `policy` is the target's model where its weights can be trained."""
        self._providers, self._budget, self._cache, self._policy = dict(providers), budget, cache, policy
        rates: dict[ModelKey, Rates | None] = {key: price_of(hosted) for key, hosted in providers.items()}
        if policy is not None:
            rates["target"], rates["learner"] = price_of(policy.hosted), _rates_of_training(policy)
        self.ledger = RunLedger(folder, budget, rates, share=share, held_back=held_back)
        self._lock = threading.Lock()
        self._running: _LoopThread | None = None
        self._training: Grant | None = None  # pays for what the policy's service trains
        self.closed = False  # True: this process ends, and calls that fail from now on say nothing about a harness

    def check(self) -> None:
        """Check packages, keys, endpoints and model names, before any heavy import. Raises ModelsError."""
        if self._policy is not None:
            self._policy.check()
            check_price(self._policy.hosted, self._budget)
        check_providers(self._providers, self._budget)

    @contextmanager
    def open_session(
        self, grant: Grant, code: str = "", service: "HostService | None" = None
    ) -> Iterator["GatewaySession"]:
        """Open a session. At the context's end its token is void; calls under way are cancelled and settled.

        What serves the APIs that the harness's `code` names is loaded first. Raises ProviderDown where that fails.
        `service` answers what the sandbox posts to /sia/NAME.
        """
        running = self._running_loop(grant)
        for api, backend in self._endpoints[grant.model_key].backends.items():
            if api in code.lower():
                try:
                    running.run(backend.ready())
                except ModelsError as error:
                    raise ProviderDown(str(error)) from None
        context = self._server.session(grant, service)
        session = running.run(context.__aenter__())
        try:
            yield session
        finally:
            if running.thread.is_alive():  # otherwise `close` has ended the session
                running.run(context.__aexit__(None, None, None))

    def chat(self, grant: Grant, messages: Objects, tools: Objects, **settings: Any) -> ModelReply:
        """Make one call from this process, in the shape of OpenAI's chat completions. Blocks; thread-safe.

        Raises ProviderDown, BudgetSpent, and ModelsError for a request that the provider calls invalid.
        """
        running = self._running_loop(grant)
        endpoint, session = self._endpoints[grant.model_key], self._server.own_session(grant)
        return running.run(self._call_runner.chat(session, endpoint, messages, tools, settings))

    def policy(self) -> Any:
        """Return the trainable model, loaded on first use. Raises ModelsError where there is none."""
        if self._policy is None:
            raise ModelsError("the target agent has no policy: target_agent=policy")
        policy = self._policy.start()
        if hasattr(policy, "charge"):  # one that is trained elsewhere
            policy.charge = self._charge_training
        return policy

    @property
    def interruptions(self) -> int:
        """The number of times that a request to the policy had to wait because a server of the run ended."""
        return 0 if self._policy is None else self._policy.interruptions

    @contextmanager
    def training_paid_by(self, grant: Grant) -> Iterator[None]:
        """Have a grant pay, until the context ends, for what the policy's service trains."""
        self._training = grant
        try:
            yield
        finally:
            self._training = None

    @contextmanager
    def _charge_training(self, prefill: int, trained: int) -> Iterator[None]:
        """Reserve the tokens of one training call before it is sent. Raises BudgetSpent.

        A call without an answer stays counted: the service may have done it. Outside of an update an adapter is loaded
        to answer: that is counted for no generation, and not refused, as the calls it answers have their own limits.
        """
        while True:
            try:
                grant = self._training or _LOADING
                reservation = self.ledger.reserve(grant, input_tokens=prefill, output_tokens=trained)
                break
            except BudgetFullyReserved:  # calls under way may use less than they reserved
                time.sleep(_BUDGET_POLL)
            except BudgetSpent:
                if self._training is not None:
                    raise
                yield
                return
        try:
            yield
        except BaseException:
            reservation.unanswered(may_be_charged=True)
            raise
        reservation.settle(prefill, trained)

    def close(self) -> None:
        """End the gateway, the policy and the ledger, and return unspent budget. Safe to call twice."""
        with self._lock:
            self.closed = True
            running, self._running = self._running, None
        if self._policy is not None:
            self._policy.close()
        if running is not None:
            running.run(self._end())
            running.stop()
        self.ledger.close()

    def _running_loop(self, grant: Grant) -> "_LoopThread":
        with self._lock:
            if self.closed:
                raise ModelsError("the gateway is closed")
            if self._running is None:
                check_installed()
                running = _LoopThread()
                try:
                    running.run(self._start())
                except BaseException:
                    running.stop()
                    raise
                self._running = running
            if grant.model_key not in self._endpoints:
                raise ModelsError(f"no provider is configured for the {grant.role} role")
            return self._running

    async def _start(self) -> None:
        from sia_runner.gateway.backends import build_endpoints, policy_endpoint
        from sia_runner.gateway.calls import CallRunner
        from sia_runner.gateway.http_client import HttpClient
        from sia_runner.gateway.server import GatewayServer

        self._client = HttpClient()
        self._endpoints = build_endpoints(self._providers, self._client)
        if self._policy is not None:
            self._endpoints["target"] = policy_endpoint(self._policy)
        self._call_runner = CallRunner(self.ledger)
        self._server = GatewayServer(self._endpoints, self._call_runner, self._cache)
        await self._server.start()

    async def _end(self) -> None:
        await self._server.close()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:  # calls of `chat`, whose threads wait
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.close()
        await asyncio.get_running_loop().shutdown_asyncgens()


def _rates_of_training(policy: "ServedPolicy") -> Rates | None:
    prices = policy.training
    return prices and Rates(prices.input, prices.output, prices.input, prices.input, "training")


class _LoopThread:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine on the loop, from another thread. An interrupt here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.thread.join()
        self._loop.close()
