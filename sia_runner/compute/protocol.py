"""The interface of a place to compute: `inline`, `local` and `slurm`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sia_runner.errors import RunnerError

T = TypeVar("T")
R = TypeVar("R")


class ComputeError(RunnerError):
    """Jobs that cannot be submitted as configured; the message is one line for the user (exit code 2)."""


class JobStopped(Exception):
    """A job that ended without a result: the run stops and can be resumed; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ComputeStep:
    """One step of the journal that is about to be carried out."""

    key: str  # gen_3/run
    kind: str  # whose resources: propose | gate | run | verify | train | test
    folder: Path  # where a job of it keeps its files
    submitted: str | None  # the job that an earlier process submitted for it and did not see the end of
    note: Callable[[str], None]  # journals the id of a job, before anything waits for it
    say: Callable[[str], None]  # one line for the user
    entry: Callable[..., Any]  # what a job calls, with the stage and its arguments
    progress: Path | None = None  # the folder where the stage leaves checkpoints, if it does


class Compute(Protocol):
    """A place where stages run."""

    apart: bool  # do stages run in processes of their own, beside the driver?

    def check(self, kinds: Iterable[str]) -> None:
        """Raise ComputeError where stages of these kinds cannot run as configured, before anything starts."""

    def call(self, step: ComputeStep, stage: Callable[..., R], *args: Any) -> R:
        """Run one stage to its end and return its result; what it raises is raised here. Raises Stopped."""
        ...

    def end(self) -> None:
        """End all processes of this machine, after an interrupt; other threads may wait for their steps."""

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Run independent pieces of one stage, as many at once as configured; results in the order of `items`."""
        ...
