"""A policy at a server: chat template, seeds and conversion here, sampling by token ids there.

The server gets token ids, since its chat template may differ from the base's own (gpt-oss's does).
"""

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from sia_runner.config.training import LoraSettings, PolicyConfig
from sia_runner.policy.base_model import ChatTokenizer
from sia_runner.policy.engine import as_call_error
from sia_runner.records import SampledCall
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import ProviderDown
from sia_runner.wire.learning import Learner, Sampler, SampleSettings
from sia_runner.wire.policy import PolicyRequest


class RemoteSampler(Sampler, Protocol):
    """A sampler at a server; it knows which weights are live."""

    address: str  # of the server, without a key
    context: int  # tokens of prompt and completion together

    @property
    def base_sha256(self) -> str:
        """The hash that identifies the base."""
        ...

    @property
    def version(self) -> str:
        """The version of the live weights: an adapter's hash or "base", and the number of versions published since."""
        ...

    def use(self, adapter: Path | None) -> str:
        """Make an adapter, or the base, the live weights; return the version. Raises CallError and PolicyError."""
        ...

    def close(self) -> None:
        """Free what the server holds for us, without waiting long."""
        ...


class RemotePolicy(ABC):
    """A TrainablePolicy at a server; `answer` and `use` may be called from any thread. Subclasses add `learner`."""

    def __init__(self, spec: PolicyConfig, tokenizer: Any, sampler: RemoteSampler) -> None:
        self.spec, self.base_id, self.tokenizer, self.sampler = spec, spec.base, tokenizer, sampler
        self._chat, self._lock, self._unseeded = ChatTokenizer(tokenizer), threading.Lock(), 0

    @property
    def base_sha256(self) -> str:
        """The hash that identifies the base."""
        return self.sampler.base_sha256

    @property
    def version(self) -> str:
        """The version of the live weights."""
        return self.sampler.version

    @abstractmethod
    def learner(
        self,
        lora: LoraSettings,
        start: Path | None,
        seed: int,
        *,
        critic: bool,
        work: Path,
        temperature: float = 1.0,
        max_length: int | None = None,
    ) -> AbstractContextManager[Learner]:
        """Return a learner whose `publish` makes the sampler answer with its weights."""

    def use(self, adapter: Path | None) -> str:
        """Make an adapter, or the base, the live weights. Returns the version. Raises PolicyError and ProviderDown."""
        try:
            return self.sampler.use(adapter)
        except CallError as failed:
            raise ProviderDown(f"{self.spec.backend} at {self.sampler.address}: {failed.message}") from None

    def answer(self, request: PolicyRequest) -> SampledCall:
        """Answer one request. Raises CallError, and PolicyError for an adapter that cannot be served."""
        context, seed = self.sampler.context, request.seed
        prompt_ids = self._chat.prompt_ids(request.messages, context, request.tools, request.reasoning_effort)
        if seed is None:
            with self._lock:
                self._unseeded += 1
                seed = int.from_bytes(hashlib.sha256(f"counted {self._unseeded}".encode()).digest()[:4]) >> 1
        limit = min(request.max_tokens, context - len(prompt_ids))
        settings = SampleSettings(limit, request.temperature, request.top_p, seed, request.stop)
        (sample,) = self.sampler.sample(prompt_ids, 1, settings, request.weights)
        tokens, (text, calls) = (tuple(prompt_ids), sample.ids, sample.logprobs), self._chat.answer(sample.ids, request)
        return SampledCall(*tokens, sample.finish_reason, sample.version, text, calls, sample.billed)

    def close(self) -> None:
        """Free what the server holds for us."""
        self.sampler.close()


class OwnServers(Protocol):
    """Servers that the run started, which may end and be started again."""

    interruptions: int  # times that a request had to wait, or to be sent again, because a server ended

    def wait(self) -> None:
        """Wait until a server answers. Raises PolicyError if none will."""

    def close(self) -> None:
        """End what this process started, and all waiting."""


class RequestForwarder:
    """Like the request batcher, but a server batches for us: each request has a thread; the gateway bounds them."""

    def __init__(self, load: Callable[[], RemotePolicy], servers: OwnServers | None = None) -> None:
        """Take what loads the policy, and the servers that it asks if the run started them."""
        self._load, self._servers, self._starting = load, servers, threading.Lock()
        self._policy: RemotePolicy | None = None

    @property
    def interruptions(self) -> int:
        """The number of times that a request had to wait, or to be sent again, because a server of the run ended."""
        return self._servers.interruptions if self._servers else 0

    def start(self) -> RemotePolicy:
        """Return the policy, loaded on the first call, once its servers answer. Raises PolicyError."""
        with self._starting:
            if self._policy is None:
                self._policy = self._load()
        if self._servers:
            self._servers.wait()
        return self._policy

    def submit(self, request: PolicyRequest) -> Future[SampledCall]:
        """Send a request; `start` comes first. The future raises CallError."""
        future: Future[SampledCall] = Future()
        future.set_running_or_notify_cancel()  # a request in progress cannot be cancelled
        threading.Thread(target=self._answer, args=[request, future], name="remote policy", daemon=True).start()
        return future

    def close(self) -> None:
        """End servers of our own, and close the policy if it was loaded."""
        if self._servers:
            self._servers.close()
        with self._starting:
            if self._policy is not None:
                self._policy.close()

    def _answer(self, request: PolicyRequest, future: Future[SampledCall]) -> None:
        try:
            policy = self._policy or self.start()
            future.set_result(policy.answer(request))
        except Exception as error:  # noqa: BLE001 - the error goes to its caller
            future.set_exception(as_call_error(error))
