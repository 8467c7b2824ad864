"""Run jobs as processes of this machine through submitit's local executor, a limited number at once."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from sia_runner.compute.jobs import LOST, Jobs, State
from sia_runner.compute.pool_cluster import Pooled
from sia_runner.compute.pool_jobs import Submitted
from sia_runner.compute.protocol import ComputeError, Step
from sia_runner.compute.task import Task
from sia_runner.ground import alive

_FOREVER = 60 * 24 * 365  # minutes: submitit has a time limit of its own, of two


class Local(Jobs):
    """The `local` compute: each stage is a process of this machine."""

    def __init__(self, workers: int, jobs: int, pool: int | None = None) -> None:
        super().__init__(workers)
        self._slots = BoundedSemaphore(jobs + (pool or 0))
        self._machine = _ThisMachine()
        self._pool = Pooled(self._machine, pool, self._machine.workers) if pool else None

    @property
    def cluster(self) -> "Pooled | _ThisMachine":
        """This machine, or the worker pool in front of it."""
        return self._pool or self._machine

    def check(self, kinds: Iterable[str]) -> None:
        """Raise ComputeError where submitit is missing."""
        submitit()

    def call(self, step: Step, stage: Callable[..., Any], *args: Any) -> Any:
        """Run one stage as a job; an interrupt here leaves no job behind."""
        try:
            return super().call(step, stage, *args)
        except KeyboardInterrupt:
            self.end()
            raise

    def end(self) -> None:
        """End all jobs and workers."""
        if self._pool:
            self._pool.end()
        self._machine.end()

    def _slot(self) -> AbstractContextManager[Any]:
        return self._slots

    def _task(self, step: Step, stage: Callable[..., Any], args: tuple[Any, ...]) -> Task:
        visible = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}  # submitit hides all GPUs
        return replace(super()._task(step, stage, args), environment=visible)


class _ThisMachine:
    """A cluster of one machine; a job is named by its process and start time: `4711.88123`."""

    def __init__(self) -> None:
        self._jobs = dict[str, Any]()
        self._attached = set[str]()  # of an earlier process

    def submit(self, step: Step, task: Task) -> str:
        executor = submitit().LocalExecutor(step.folder)
        executor.update_parameters(timeout_min=_FOREVER)
        with _ignoring_interrupts():
            job = executor.submit(task)
        name = f"{job.job_id}.{alive.started(job.job_id)}"
        self._jobs[name] = job
        return name

    def workers(self, folder: Path) -> Submitted:
        """Return the starter of the pool's workers."""
        executor = submitit().LocalExecutor(folder)
        executor.update_parameters(timeout_min=_FOREVER)
        return Submitted(executor, around=_ignoring_interrupts)

    def attach(self, step: Step, job: str) -> None:
        """Do nothing: a process is looked up by its name."""

    def state(self, job: str) -> State:
        mine = self._jobs.get(job)
        if mine is not None:
            return State("FAILED" if mine.done() else "RUNNING")
        pid, _, started = job.partition(".")
        self._attached.add(job)
        return State("RUNNING" if alive.started(pid) == started else LOST)

    def forget(self, job: str) -> None:
        """Do nothing: processes need no query."""

    def waiting(self, state: State | None, seconds: float) -> str:
        return ""

    def log(self, step: Step, job: str) -> Path:
        return step.folder / f"{job.partition('.')[0]}_0_log.err"

    def end(self) -> None:
        """Terminate all jobs; submitit's process passes the signal on."""
        for job in (*self._jobs, *self._attached):
            if self.state(job).name == "RUNNING":
                os.kill(int(job.partition(".")[0]), signal.SIGTERM)


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which is meant for the driver."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def submitit() -> Any:
    """Import and return the package submitit, once the first job is near; raise ComputeError without it."""
    try:
        import submitit as package
    except ImportError:
        command = f"{Path(sys.executable).name} -m pip install 'sia-runner[slurm]'"
        raise ComputeError(f"compute=local and compute=slurm need the package submitit: {command}") from None
    return package
