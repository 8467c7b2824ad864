"""The policy in this process: one copy of the weights, which answers in batches and is trained."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sia_runner.config.training import LoraSettings, PolicyConfig
from sia_runner.policy.adapters import BASE_VERSION, AdapterSwitcher, ServeAdapter
from sia_runner.policy.base_model import ChatTokenizer, load_base
from sia_runner.policy.tiny import tiny_base_folder
from sia_runner.records import SampledCall
from sia_runner.text import one_line
from sia_runner.wire.failures import CallError
from sia_runner.wire.learning import Learner
from sia_runner.wire.policy import LiveWeights, PolicyRequest, WarmupDialogue, WeightsSource, check_policy_packages

if TYPE_CHECKING:
    from sia_runner.policy.sampling import SampledTokens, SamplingRow

TINY_BASE = "tiny"


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request whose prompt is tokenised. `settle` is given its answer."""

    request: PolicyRequest
    prompt_ids: Sequence[int]
    settle: Callable[[SampledCall], None]
    withdrawn: Callable[[], bool] = lambda: False  # True if nobody wants the answer any more


class WaitingRequests(Protocol):
    """Requests that arrive while others are answered."""

    def count(self) -> int:
        """Return how many wait."""
        ...

    def take(self, weights: WeightsSource, limit: int) -> list[PendingRequest]:
        """Return some that are for these weights, and wait no longer."""
        ...


@dataclass(frozen=True, slots=True)
class _WaitingRows:
    """Requests for one version of the weights, as rows for a batch."""

    waiting: WaitingRequests
    weights: WeightsSource
    row: "Callable[[PendingRequest], SamplingRow]"

    def __len__(self) -> int:
        return self.waiting.count()

    def take(self, limit: int) -> "list[SamplingRow]":
        return [self.row(pending) for pending in self.waiting.take(self.weights, limit)]


class PolicyEngine:
    """One loaded base model and its adapters. Methods may be called from any thread; one runs at a time."""

    sampler = None  # the learner's own weights answer

    def __init__(self, spec: PolicyConfig, cache: Path, texts: Callable[[], Sequence[WarmupDialogue]]) -> None:
        """Load the base; `tiny` is built and warmed on `texts` first, unless `cache` has it. Raises PolicyError."""
        check_policy_packages()
        from sia_runner.policy.sampling import PromptCache

        base_path = spec.base
        if spec.base == TINY_BASE:
            base_path = str(tiny_base_folder(spec.tiny, cache, texts(), partial(print, file=sys.stderr, flush=True)))
        base = load_base(base_path, spec.device, spec.dtype)
        self.spec, self.lock, self.tokenizer = spec, threading.RLock(), base.tokenizer
        self.base_id, self.base_sha256, self.context = spec.base, base.sha256, base.context
        self.trust_base = spec.trust_base
        self._end_ids = base.end_ids
        self._chat = ChatTokenizer(base.tokenizer, base.model.get_input_embeddings().num_embeddings)
        self._adapters = AdapterSwitcher(base.model, spec.base, base.sha256, trust_base=spec.trust_base)
        self._prefixes = PromptCache()
        self._version, self._updates, self._unseeded = BASE_VERSION, 0, 0

    @property
    def model(self) -> Any:
        """The transformers model; PEFT's once it has an adapter. Training may set it to the model that it wrapped."""
        return self._adapters.model

    @model.setter
    def model(self, model: Any) -> None:
        self._adapters.model = model

    @property
    def version(self) -> str:
        """The version of the live weights: an adapter's hash or "base", and the number of trainings since."""
        return f"{self._version}+{self._updates}" if self._updates else self._version

    def use(self, adapter: Path | None) -> str:
        """Make an adapter, or the base, the live weights. Returns the version. Raises PolicyError."""
        with self.lock:
            self._version = self._adapters.use(adapter)
            self._updates = 0
            return self._version

    @contextmanager
    def training(self) -> Iterator[Any]:
        """Yield the model in train mode, with requests held back; afterwards the live weights have a new version."""
        with self.lock:
            self.model.train()
            try:
                yield self.model
            finally:
                self.model.eval()
                self._updates += 1

    @contextmanager
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
        serve: ServeAdapter | None = None,
    ) -> Iterator[Learner]:
        """Yield a learner, see policy.learner; live weights are its own until it ends, then those of before."""
        from sia_runner.policy.learner import in_process_learner

        own = {"critic": critic, "work": work, "temperature": temperature, "max_length": max_length, "serve": serve}
        attached = ExitStack()
        with self.lock:  # requests must not meet a model that is being changed
            learner = attached.enter_context(in_process_learner(self, lora, start, seed, **own))
            self._updates += 1
        try:
            yield learner
        finally:
            with self.lock:
                attached.close()
                self._updates += 1

    def prompt_ids(self, request: PolicyRequest) -> list[int]:
        """Return the prompt's token ids. Raises CallError (bad_request) if the context has no space for an answer."""
        return self._chat.prompt_ids(request.messages, self.context, request.tools, request.reasoning_effort)

    def sample(
        self,
        requests: Sequence[PolicyRequest],
        prompts: Sequence[Sequence[int]],
        withdrawn: Sequence[Callable[[], bool]] = (),
    ) -> list[SampledCall]:
        """Answer requests whose prompts are tokenised already.

        `withdrawn`: for each request, whether its answer is still wanted; if not, it ends between two tokens.
        """
        calls: dict[int, SampledCall] = {}
        self.answer(
            [
                PendingRequest(
                    request,
                    prompt_ids,
                    partial(calls.__setitem__, at),
                    withdrawn[at] if withdrawn else lambda: False,
                )
                for at, (request, prompt_ids) in enumerate(zip(requests, prompts, strict=True))
            ]
        )
        return [calls[at] for at in range(len(requests))]

    def answer(self, pending: Sequence["PendingRequest"], waiting: "WaitingRequests | None" = None) -> None:
        """Answer requests, each when its last token is drawn; those for the same weights form a batch.

        Where all are for the same weights, more such requests of `waiting` take the places of those that were answered.
        """
        from sia_runner.policy.lora import adapter_in_weights_dtype
        from sia_runner.policy.sampling import sample_batch

        several = dict.fromkeys(call.request.weights for call in pending)
        with self.lock, _eval_mode(self.model):
            for weights in several:
                live = isinstance(weights, LiveWeights)
                with nullcontext() if live else self._adapters.restored_afterwards():
                    version = self.version if live else self._adapters.use(weights)
                    rows = [self._row(call, version) for call in pending if call.request.weights == weights]
                    source = None
                    if waiting is not None and len(several) == 1:
                        source = _WaitingRows(waiting, weights, partial(self._row, version=version))
                    model = self.tokenizer.pad_token_id, self._end_ids, self._prefixes, version
                    with adapter_in_weights_dtype(self.model):
                        sample_batch(self.model, rows, *model, source, self.spec.max_batch_size)

    def _row(self, pending: "PendingRequest", version: str) -> "SamplingRow":
        from sia_runner.policy.sampling import SamplingRow

        request, prompt_ids = pending.request, pending.prompt_ids

        def settle(tokens: "SampledTokens") -> None:
            ids, logprobs, finish_reason = tokens
            text, used = self._chat.answer(ids, request)
            sampled = tuple(prompt_ids), tuple(ids), tuple(logprobs)
            pending.settle(SampledCall(*sampled, finish_reason, version, text, used))

        limit = min(request.max_tokens, self.context - len(prompt_ids))
        how = limit, request.temperature, request.top_p, self._seed(request), self._chat.stopped(request.stop)
        return SamplingRow(prompt_ids, *how, pending.withdrawn, settle)

    def _seed(self, request: PolicyRequest) -> str:
        if request.seed is not None:
            return f"asked {request.seed}"
        self._unseeded += 1
        return f"counted {self._unseeded}"


@contextmanager
def _eval_mode(model: Any) -> Iterator[None]:
    """Switch to eval mode and back: a trainer leaves train mode on, and dropout is no part of the policy."""
    if not any(module.training for module in model.modules()):  # this check is faster than setting every module again
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


_SPEED_ROWS, _SPEED_TOKENS = 16, 6  # few, as this cannot be interrupted


def sampling_speed(engine: PolicyEngine) -> float:
    """Measure completion tokens a second of one batch, its prompts included."""
    chats = [[{"role": "user", "content": f"{n} ships are at sea. Say more."}] for n in range(_SPEED_ROWS)]
    requests = [PolicyRequest(chat, _SPEED_TOKENS, temperature=1.0, seed=0) for chat in chats]
    start = time.monotonic()
    calls = engine.sample(requests, [engine.prompt_ids(request) for request in requests])
    return sum(len(call.completion_ids) for call in calls) / (time.monotonic() - start)


QueuedRequest = tuple[PolicyRequest, Future[SampledCall]]

_JOINING_SECONDS = 20.0  # how long requests may join a batch: others may be waiting for the weights


class RequestBatcher:
    """A queue in front of an engine, which the first `start` loads, once."""

    def __init__(self, load: Callable[[], PolicyEngine]) -> None:
        self._load, self._starting = load, threading.Lock()
        self._engine: PolicyEngine | None = None
        self._waiting: queue.SimpleQueue[QueuedRequest | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._put_back: list[QueuedRequest] = []  # at most one, for other weights than the batch at work
        self._batch: list[Future[SampledCall]] = []
        self._joining_until = 0.0

    def start(self) -> PolicyEngine:
        """Return the engine; block until its weights are loaded. Raises PolicyError."""
        with self._starting:
            if self._engine is None:
                self._engine = self._load()
                self._thread = threading.Thread(target=self._work, args=[self._engine], name="policy", daemon=True)
                self._thread.start()
            return self._engine

    def submit(self, request: PolicyRequest) -> Future[SampledCall]:
        """Queue a request; cancelling withdraws it, also between two tokens. The future raises CallError."""
        future: Future[SampledCall] = Future()
        self._waiting.put((request, future))
        if self._closed:  # `close` may have emptied the queue before this request arrived
            future.cancel()
        return future

    def close(self) -> None:
        """Cancel all requests; the current batch ends at its next token. It may be called twice."""
        self._closed = True
        with self._starting:
            if self._thread is not None and self._thread.is_alive():
                self._waiting.put(None)
                self._thread.join()

    def _work(self, engine: PolicyEngine) -> None:
        while batch := self._next(engine):
            self._answer(engine, batch)
        while self._put_back or not self._waiting.empty():
            if entry := self._put_back.pop() if self._put_back else self._waiting.get():
                entry[1].cancel()

    def _next(self, engine: PolicyEngine) -> list[QueuedRequest]:
        """Return the requests that arrive within the window, in order; an empty list at the end."""
        first = self._put_back.pop() if self._put_back else self._waiting.get()
        batch = [first] if first else []
        until = time.monotonic() + engine.spec.batch_wait_ms / 1000
        while first and len(batch) < engine.spec.max_batch_size:
            try:
                following = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                self._waiting.put(None)  # the end mark is handled after this batch
                break
            batch.append(following)
        return batch

    def _answer(self, engine: PolicyEngine, batch: Sequence[QueuedRequest]) -> None:
        """Answer a batch, and requests that join it."""
        self._batch, self._joining_until = [], time.monotonic() + _JOINING_SECONDS
        pending = [call for entry in batch for call in self._tokenised(entry)]
        if not pending:  # all were cancelled or refused
            return
        try:
            engine.answer(pending, self)
        except Exception as error:  # noqa: BLE001 - out of memory, a missing adapter: the thread continues
            for future in self._batch:
                if not future.done():
                    _settle(future, error)

    def _tokenised(self, entry: QueuedRequest) -> list[PendingRequest]:
        """Return the request, unless it was cancelled or is refused."""
        request, future = entry
        if future.cancelled() or self._engine is None:
            return []
        try:
            prompt_ids = self._engine.prompt_ids(request)  # a refused request must not fail the others
        except Exception as error:  # noqa: BLE001 - the error goes to its caller
            _settle(future, error)
            return []
        self._batch.append(future)

        def settle(answer: SampledCall) -> None:
            if self._closed:  # the answer may be cut
                future.cancel()
            else:
                _settle(future, answer)

        return [PendingRequest(request, prompt_ids, settle, lambda: self._closed or future.cancelled())]

    def count(self) -> int:
        """Return how many requests may join the batch at work."""
        late = time.monotonic() > self._joining_until
        return 0 if late or self._closed or self._put_back else self._waiting.qsize()

    def take(self, weights: WeightsSource, limit: int) -> list[PendingRequest]:
        """Return requests for these weights, which join the batch at work."""
        pending: list[PendingRequest] = []
        for _ in range(limit):
            try:
                entry = self._waiting.get_nowait()
            except queue.Empty:
                break
            if entry is None:
                self._waiting.put(None)
                break
            if entry[0].weights != weights:
                self._put_back.append(entry)  # it is the first of the next batch, and until then none joins this one
                break
            pending += self._tokenised(entry)
        return pending


def _settle(future: Future[SampledCall], answer: SampledCall | Exception) -> None:
    """Give the answer, or the error, to whoever waits, unless the request was cancelled meanwhile."""
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(answer, Exception):
        future.set_exception(as_call_error(answer))
    else:
        future.set_result(answer)


def as_call_error(error: Exception) -> CallError:
    """Convert an error of the policy: it is not the harness's fault, and a retry would not help."""
    if isinstance(error, CallError):
        return error
    why = f"the policy failed: {type(error).__name__}: {one_line(str(error), 300)}"
    return CallError("unreachable", why, sent=False, final=True)
