"""The policy in this process: one copy of the weights, which answers in batches and is trained."""

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from sia_runner.config.training import LoraSettings, PolicyConfig
from sia_runner.policy.adapters import BASE_VERSION, AdapterSwitcher, ServeAdapter
from sia_runner.policy.base_model import ChatTokenizer, load_base
from sia_runner.policy.tiny import tiny_base_folder
from sia_runner.records import SampledCall
from sia_runner.text import one_line
from sia_runner.wire.failures import CallError
from sia_runner.wire.learning import Learner
from sia_runner.wire.policy import LiveWeights, PolicyRequest, WarmupDialogue, check_policy_packages

TINY_BASE = "tiny"


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
        """Answer requests whose prompts are tokenised already; requests for the same weights form a batch.

        `withdrawn`: for each request, whether its answer is still wanted; if not, it ends between two tokens.
        """
        from sia_runner.policy.lora import adapter_in_weights_dtype
        from sia_runner.policy.sampling import SamplingRow, sample_batch

        calls: dict[int, SampledCall] = {}
        pad_id, ends = self.tokenizer.pad_token_id, self._end_ids
        with self.lock, _eval_mode(self.model):
            for weights in dict.fromkeys(request.weights for request in requests):
                rows: dict[int, SamplingRow] = {}
                for at, request in enumerate(requests):
                    if request.weights == weights:
                        limit = min(request.max_tokens, self.context - len(prompts[at]))
                        settings = request.temperature, request.top_p, self._seed(request)
                        over = withdrawn[at] if withdrawn else lambda: False
                        rows[at] = SamplingRow(prompts[at], limit, *settings, self._chat.stopped(request.stop), over)
                live = isinstance(weights, LiveWeights)
                with nullcontext() if live else self._adapters.restored_afterwards():
                    version = self.version if live else self._adapters.use(weights)
                    with adapter_in_weights_dtype(self.model):
                        results = sample_batch(self.model, list(rows.values()), pad_id, ends, self._prefixes, version)
                for at, (ids, logprobs, finish_reason) in zip(rows, results, strict=True):
                    text, used = self._chat.answer(ids, requests[at])
                    tokens = tuple(prompts[at]), tuple(ids), tuple(logprobs)
                    calls[at] = SampledCall(*tokens, finish_reason, version, text, used)
        return [calls[at] for at in range(len(requests))]

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

# Who was answered often asks again at once. Waiting for that costs a tenth of the last batch's time at most; else two
# groups of callers take turns, each in batches that are too small.
_PATIENCE = 0.1


class RequestBatcher:
    """A queue in front of an engine, which the first `start` loads, once."""

    def __init__(self, load: Callable[[], PolicyEngine]) -> None:
        self._load, self._starting = load, threading.Lock()
        self._engine: PolicyEngine | None = None
        self._waiting: queue.SimpleQueue[QueuedRequest | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._callers, self._returning_until = 0, 0.0  # how many asked lately, and how long to wait for all of them

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
            begin = time.monotonic()
            self._answer_batch(engine, batch)
            end = time.monotonic()
            self._callers = len(batch) + self._waiting.qsize()
            self._returning_until = end + _PATIENCE * (end - begin)
        while not self._waiting.empty():
            if entry := self._waiting.get():
                entry[1].cancel()

    def _next(self, engine: PolicyEngine) -> list[QueuedRequest]:
        """Return the requests that arrive within the window, in order; an empty list at the end.

        The window is longer until all have asked who were answered just now, or waited meanwhile.
        """
        first = self._waiting.get()
        batch = [first] if first else []
        until = time.monotonic() + engine.spec.batch_wait_ms / 1000
        while first and len(batch) < engine.spec.max_batch_size:
            limit = max(until, self._returning_until) if len(batch) < self._callers else until
            try:
                following = self._waiting.get(timeout=max(0.0, limit - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                self._waiting.put(None)  # the end mark is handled after this batch
                break
            batch.append(following)
        return batch

    def _answer_batch(self, engine: PolicyEngine, batch: list[QueuedRequest]) -> None:
        requests, prompts, futures = [], [], []
        for request, future in batch:
            if future.cancelled():
                continue
            try:
                prompts.append(engine.prompt_ids(request))  # a refused request must not fail the others
            except Exception as error:  # noqa: BLE001 - the error goes to its caller
                _settle(future, error)
            else:
                requests.append(request)
                futures.append(future)
        if not requests:  # all were cancelled or refused
            return
        withdrawn = [lambda future=future: self._closed or future.cancelled() for future in futures]
        try:
            answers = engine.sample(requests, prompts, withdrawn)
        except Exception as error:  # noqa: BLE001 - out of memory, a missing adapter: the thread continues
            answers = [error] * len(futures)
        for future, answer in zip(futures, answers, strict=True):
            if self._closed:  # the answer may be cut
                future.cancel()
            else:
                _settle(future, answer)


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
