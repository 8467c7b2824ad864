"""Requests of concurrent callers, answered in batches on one thread so that event loops stay free."""

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
    """A queue in front of an engine.

    `load` creates the engine, or returns a shared one; the first `start` calls it, once.
    """

    def __init__(self, load: Callable[[], Engine]) -> None:
        self._load = load
        self._starting = threading.Lock()
        self._engine: Engine | None = None
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self) -> Engine:
        """Return the engine; block until its weights are loaded. Raises PolicyError."""
        with self._starting:
            if self._engine is None:
                self._engine = self._load()
                self._thread = threading.Thread(target=self._work, args=[self._engine], name="policy", daemon=True)
                self._thread.start()
            return self._engine

    def submit(self, request: Ask) -> Future[Answer]:
        """Queue a request; `start` comes first. The future raises Failed.

        Cancelling the future withdraws the request, unless its batch has started.
        """
        future: Future[Answer] = Future()
        self._waiting.put((request, future))
        if self._closed:  # `close` may have emptied the queue before this request arrived
            future.cancel()
        return future

    def close(self) -> None:
        """Finish the current batch and cancel waiting requests. It may be called twice."""
        with self._starting:
            self._closed = True
            if self._thread is not None and self._thread.is_alive():
                self._waiting.put(None)
                self._thread.join()

    def _work(self, engine: Engine) -> None:
        while batch := self._next(engine):
            _answer(engine, batch)
        while not self._waiting.empty():
            if entry := self._waiting.get():
                entry[1].cancel()

    def _next(self, engine: Engine) -> list[Waiting]:
        """Return the requests that arrive within the window, in order; an empty list at the end."""
        first = self._waiting.get()
        batch = [first] if first else []
        until = time.monotonic() + engine.spec.wait_ms / 1000
        while first and len(batch) < engine.spec.batch:
            try:
                following = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                self._waiting.put(None)  # the end mark is handled after this batch
                break
            batch.append(following)
        return batch


def _answer(engine: Engine, batch: list[Waiting]) -> None:
    accepted = [(request, future) for request, future in batch if future.set_running_or_notify_cancel()]
    requests, prompts, futures = [], [], []
    for request, future in accepted:
        try:
            prompts.append(engine.prompt_ids(request))  # a refused request must not fail the others
        except Exception as error:  # noqa: BLE001 - the error goes to its caller
            future.set_exception(_failed(error))
        else:
            requests.append(request)
            futures.append(future)
    if not requests:  # all were cancelled or refused
        return
    try:
        answers = engine.sample(requests, prompts)
    except Exception as error:  # noqa: BLE001 - out of memory, a missing adapter: the thread continues
        for future in futures:
            future.set_exception(_failed(error))
        return
    for future, answer in zip(futures, answers, strict=True):
        future.set_result(answer)


def _failed(error: Exception) -> Failed:
    """Convert an error: it is not the harness's fault, and a retry would not help."""
    if isinstance(error, Failed):
        return error
    line = " ".join(str(error).split())[:300]
    return Failed("unreachable", f"the policy failed: {type(error).__name__}: {line}", sent=False, final=True)
