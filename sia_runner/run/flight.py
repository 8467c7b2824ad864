"""Several candidates evaluated at once, with verdicts that do not depend on how long each one takes."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


def known(n: int, in_flight: int) -> int:
    """Return the number of verdicts that proposal `n` is based on.

    These are all but those of the `in_flight` - 1 candidates before it, even if these already have a verdict. The first
    candidate runs alone, since no proposal can be based on anything before it.
    """
    return 0 if n == 1 else max(1, n - in_flight)


class Flight(Generic[T]):
    """A pool of candidates in evaluation whose results are collected in order.

    ``with Flight(work, last, in_flight) as pipeline: pipeline.result_of(1); pipeline.result_of(2); …``

    `work(n)` runs on a thread of its own as soon as `known(n)` candidates were collected, so at most `in_flight` run at
    once. On exit the running ones are waited for, except after an interrupt.
    """

    def __init__(self, work: Callable[[int], T], last: int, in_flight: int) -> None:
        self._work, self._last, self._in_flight = work, last, in_flight
        self._candidates: dict[int, tuple[threading.Thread, Future[T]]] = {}
        self.closed = False  # True: no further candidate starts
        self._over = threading.Event()

    def __enter__(self) -> "Flight[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            for thread, _future in self._candidates.values():
                thread.join()

    @property
    def is_over(self) -> bool:
        """True when nobody waits for candidates any more: a running one then stops at its next step."""
        return self._over.is_set()

    def close(self) -> None:
        """Let no further candidate start; running ones can still be collected."""
        self.closed = True

    def result_of(self, n: int) -> T | None:
        """Wait for candidate `n` and return its result; None if it never started. Collect candidates in order.

        Raises what its work raised.
        """
        while (
            not self.closed
            and len(self._candidates) < self._last
            and known(len(self._candidates) + 1, self._in_flight) < n
        ):
            self._start(len(self._candidates) + 1)
        return self._candidates[n][1].result() if n in self._candidates else None

    def _start(self, n: int) -> None:
        future: Future[T] = Future()
        thread = threading.Thread(target=self._carry_out, args=(n, future), name=f"candidate-{n}", daemon=True)
        self._candidates[n] = thread, future
        thread.start()

    def _carry_out(self, n: int, future: Future[T]) -> None:
        try:
            future.set_result(self._work(n))
        except BaseException as error:  # noqa: BLE001 - it is raised again in result_of
            future.set_exception(error)
