"""Stages in this process; several sandboxes at once by threads (each sandbox is a process tree of its own)."""

from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from sia_runner.parallel import parallel

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class Inline:
    def __init__(self, workers: int) -> None:
        self._workers = workers

    def call(self, stage: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run one stage to its end."""
        return stage(*args, **kwargs)

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Results in the order of `items`. An interrupt does not wait for what is still running."""
        return parallel(work, items, self._workers)
