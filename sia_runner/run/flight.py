"""Several candidates under way at once, and yet the same verdicts whatever takes how long."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


def known(n: int, in_flight: int) -> int:
    """How many verdicts proposal `n` is made from: all but those of the `in_flight` - 1 candidates before it, whether
    or not these happen to have been judged by then. The first candidate goes alone: nothing is known before it."""
    return 0 if n == 1 else max(1, n - in_flight)


class Flight(Generic[T]):
    """``with Flight(work, last, in_flight) as flight: flight.land(1); flight.land(2); …``

    `work(n)` runs on a thread of its own as soon as `known(n)` candidates have landed; so at most `in_flight` are under
    way. On the way out those under way are waited for, except after an interrupt.
    """

    def __init__(self, work: Callable[[int], T], last: int, in_flight: int) -> None:
        self._work, self._last, self._in_flight = work, last, in_flight
        self._begun: dict[int, tuple[threading.Thread, Future[T]]] = {}
        self.closed = False  # may no other candidate begin?
        self._over = threading.Event()

    def __enter__(self) -> "Flight[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            for thread, _future in self._begun.values():
                thread.join()

    @property
    def over(self) -> bool:
        """Is nobody waiting for candidates any more? Who works on one then stops at the next step."""
        return self._over.is_set()

    def close(self) -> None:
        """No other candidate begins; those under way can land."""
        self.closed = True

    def land(self, n: int) -> T | None:
        """What became of candidate `n`, None if it never began; every one before it has landed. Raises what its work
        raised."""
        while not self.closed and len(self._begun) < self._last and known(len(self._begun) + 1, self._in_flight) < n:
            self._begin(len(self._begun) + 1)
        return self._begun[n][1].result() if n in self._begun else None

    def _begin(self, n: int) -> None:
        future: Future[T] = Future()
        thread = threading.Thread(target=self._carry_out, args=(n, future), name=f"candidate-{n}", daemon=True)
        self._begun[n] = thread, future
        thread.start()

    def _carry_out(self, n: int, future: Future[T]) -> None:
        try:
            future.set_result(self._work(n))
        except BaseException as error:  # noqa: BLE001 - it is raised again where the candidate lands
            future.set_exception(error)
