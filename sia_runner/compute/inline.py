"""Stages in this process; several sandboxes at once by threads (each sandbox is a process tree of its own)."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sia_runner.compute.protocol import Step
from sia_runner.ground.parallel import parallel

T = TypeVar("T")
R = TypeVar("R")


class Inline:
    apart = False

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def check(self, kinds: Iterable[str]) -> None:
        """Always there."""

    def call(self, step: Step, stage: Callable[..., R], *args: Any) -> R:
        """Run one stage to its end."""
        return stage(*args)

    def end(self) -> None:
        """Sandboxes end with this process."""

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Results in the order of `items`. An interrupt does not wait for what is still running."""
        return parallel(work, items, self._workers)
