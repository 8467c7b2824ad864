"""Model access of one process: keys, ledger and gateway, behind a thread with an event loop."""

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sia_runner.config import Budget
from sia_runner.models.ledger import RunLedger
from sia_runner.models.policy.preflight import check as check_policy
from sia_runner.models.preflight import check_all, check_installed
from sia_runner.models.prices import Rates, price_of
from sia_runner.models.protocol import Grant, ModelsError, Role
from sia_runner.records import Reply, Usage
from sia_runner.schema.provider import Hosted
from sia_runner.schema.training import PolicySpec

if TYPE_CHECKING:
    from sia_runner.models.attempts import Desk
    from sia_runner.models.endpoints import Endpoint
    from sia_runner.models.gateway import Gateway
    from sia_runner.models.line import Line
    from sia_runner.models.policy.ask import Answering
    from sia_runner.models.stay import Stay

_Result = TypeVar("_Result")
Own = tuple[PolicySpec, "Answering"]  # a model whose weights can be trained


class RunModels:
    """Implements `ModelAccess`. `folder` is RUN/ledger; `cache` holds answers of providers configured to cache."""

    def __init__(
        self,
        providers: Mapping[Role, Hosted],
        folder: Path,
        budget: Budget,
        cache: Path,
        *,
        share: float = 1.0,
        held_back: Callable[[], Usage] | None = None,
        policy: "Own | None" = None,
    ) -> None:
        """Build the ledger; `policy` is the target's model where its weights can be trained."""
        self._providers, self._budget, self._cache, self._policy = dict(providers), budget, cache, policy
        rates: dict[Role, Rates | None] = {role: price_of(hosted) for role, hosted in providers.items()}
        if policy is not None:
            rates["target"] = Rates(0.0, 0.0, 0.0, 0.0, "this machine")
        self.ledger = RunLedger(folder, budget, rates, share=share, held_back=held_back)
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._closed = False

    def check(self) -> None:
        """Check the policy and all providers. Raises ModelsError."""
        if self._policy is not None:
            check_policy(self._policy[0])
        check_all(self._providers, self._budget)

    @contextmanager
    def admit(self, grant: Grant) -> Iterator["Stay"]:
        """Open a session for a sandbox."""
        running = self._running_gateway()
        self._check_role(grant)
        context = running.gateway.visit(grant)
        session = running.run(context.__aenter__())
        try:
            yield session
        finally:
            if running.alive:  # otherwise `close` has ended the session
                running.run(context.__aexit__(None, None, None))

    def chat(
        self, grant: Grant, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], **settings: Any
    ) -> Reply:
        """Make one call from this process."""
        from sia_runner.models.client import chat

        running = self._running_gateway()
        self._check_role(grant)
        endpoint, session = running.role_endpoints[grant.role], running.gateway.own_session(grant)
        return running.run(chat(running.call_runner, endpoint, session, messages, tools, settings))

    def policy(self) -> Any:
        """Return the trainable model, loaded on first use. Raises ModelsError where there is none."""
        if self._policy is None:
            raise ModelsError("the target agent has no policy: target_agent=policy")
        return self._policy[1].start()

    def bury(self, jobs: Collection[str]) -> None:
        """Free the budget that gateways of these SLURM jobs hold."""
        self.ledger.bury(jobs)

    def close(self) -> None:
        """End the gateway, the policy and the ledger."""
        if self._policy is not None:
            self._policy[1].close()
        with self._lock:
            self._closed = True
            running, self._running = self._running, None
        if running is not None:
            running.close()
        self.ledger.close()

    def _check_role(self, grant: Grant) -> None:
        if grant.role not in self._providers and not (grant.role == "target" and self._policy):
            raise ModelsError(f"no provider is configured for the {grant.role} role")

    def _running_gateway(self) -> "_Running":
        with self._lock:
            if self._closed:
                raise ModelsError("the gateway is closed")
            if self._running is None:
                check_installed()
                self._running = _Running(self._providers, self.ledger, self._cache, self._policy)
            return self._running


class _Running:
    """The gateway's thread, its event loop, and the objects that live on it."""

    gateway: "Gateway"
    call_runner: "Desk"
    role_endpoints: "dict[Role, Endpoint]"
    _client: "Line"

    def __init__(self, providers: Mapping[Role, Hosted], ledger: RunLedger, cache: Path, policy: "Own | None") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._thread.start()
        try:
            self.run(self._start(providers, ledger, cache, policy))
        except BaseException:
            self._stop()
            raise

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine on the loop, called from another thread. An interrupt here cancels it there."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        self.run(self._end())
        self._stop()

    async def _start(
        self, providers: Mapping[Role, Hosted], ledger: RunLedger, cache: Path, policy: "Own | None"
    ) -> None:
        from sia_runner.models.attempts import Desk
        from sia_runner.models.endpoints import endpoints
        from sia_runner.models.gateway import Gateway
        from sia_runner.models.line import Line
        from sia_runner.models.policy.backend import endpoint
        from sia_runner.models.policy.granted import granted, keep

        self._client = Line()
        self.role_endpoints = endpoints(providers, self._client)
        if policy is not None:
            self.role_endpoints["target"] = endpoint(*policy, granted, keep)
        self.call_runner = Desk(ledger)
        self.gateway = Gateway(self.role_endpoints, self.call_runner, cache)
        await self.gateway.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    async def _end(self) -> None:
        await self.gateway.close()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:  # calls of `chat`, whose threads wait
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.close()
        await self._loop.shutdown_asyncgens()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
