"""Requests of concurrent callers, answered together on a thread of their own: event loops stay free."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from sia_runner.models.failures import Failed
from sia_runner.models.policy.ask import Answer, Ask
from sia_runner.models.policy.engine import Engine

Waiting = tuple[Ask, Future[Answer]]


class Batching:
    """`load` makes the engine, or gives the one that others hold too; it is called once, on the first `start`."""

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._load = load
        self._starting = threading.Lock()
        self._engine: Engine | None = None
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self) -> Engine:
        """Blocks until the weights are loaded; at once when they are. Raises PolicyError."""
        with self._starting:
            if self._engine is None:
                self._engine = self._load()
                self._thread = threading.Thread(target=self._work, args=[self._engine], name="policy", daemon=True)
                self._thread.start()
            return self._engine

    def submit(self, ask: Ask) -> Future[Answer]:
        """After `start`. Raises Failed in the future. Cancelling it takes the ask back, unless its batch has begun."""
        future: Future[Answer] = Future()
        self._waiting.put((ask, future))
        if self._closed:  # whoever closed did not see it
            future.cancel()
        return future

    def close(self) -> None:
        """The batch under way is finished; those who wait are cancelled. Safe to call twice."""
        with self._starting:
            self._closed = True
            if self._thread is not None and self._thread.is_alive():
                self._waiting.put(None)
                self._thread.join()

    def _work(self, engine: Engine) -> None:
        while batch := self._next(engine):
            _answer(engine, batch)
        while not self._waiting.empty():
            if left := self._waiting.get():
                left[1].cancel()

    def _next(self, engine: Engine) -> list[Waiting]:
        """Those who come within the window, in order of arrival; empty at the end."""
        first = self._waiting.get()
        batch = [first] if first else []
        until = time.monotonic() + engine.spec.wait_ms / 1000
        while first and len(batch) < engine.spec.batch:
            try:
                following = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                self._waiting.put(None)  # the end comes after this batch
                break
            batch.append(following)
        return batch


def _answer(engine: Engine, batch: list[Waiting]) -> None:
    accepted = [(ask, future) for ask, future in batch if future.set_running_or_notify_cancel()]
    asks, prompts, futures = [], [], []
    for ask, future in accepted:
        try:
            prompts.append(engine.prompt_ids(ask))  # one that is refused must not take the others with it
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to who asked
            future.set_exception(_failed(error))
        else:
            asks.append(ask)
            futures.append(future)
    if not asks:  # all were taken back, or refused
        return
    try:
        answers = engine.sample(asks, prompts)
    except Exception as error:  # noqa: BLE001 - out of memory, an adapter that is gone: the thread goes on
        for future in futures:
            future.set_exception(_failed(error))
        return
    for future, answer in zip(futures, answers, strict=True):
        future.set_result(answer)


def _failed(error: Exception) -> Failed:
    """What fails here is no fault of the harness, and nothing that another attempt would mend."""
    if isinstance(error, Failed):
        return error
    line = " ".join(str(error).split())[:300]
    return Failed("unreachable", f"the policy failed: {type(error).__name__}: {line}", sent=False, final=True)
