"""Run stages in this process, and pieces of a stage by threads (each sandbox is a process tree of its own)."""

from collections.abc import Callable, Iterable
from typing import Any

from sia_runner.compute.protocol import ComputeStep, R, T
from sia_runner.system import run_parallel


class Inline:
    """The `inline` compute: stages run in the driver, one after another."""

    apart = False

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def check(self, kinds: Iterable[str]) -> None:
        """Accept every kind: this process is always available."""

    def call(self, step: ComputeStep, stage: Callable[..., R], *args: Any) -> R:
        """Run one stage to its end."""
        return stage(*args)

    def end(self) -> None:
        """Do nothing: sandboxes end with this process, and a resumed run finds the jobs of a cluster."""

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return results in the order of `items`; an interrupt does not wait for running ones."""
        return run_parallel(work, items, self._workers)
