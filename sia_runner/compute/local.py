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

from sia_runner.compute.jobs import LOST, JobCompute, JobState
from sia_runner.compute.pool import PooledCluster, SubmititWorkers
from sia_runner.compute.protocol import ComputeError, ComputeStep
from sia_runner.compute.task import StageJob
from sia_runner.store import lease

_FOREVER = 60 * 24 * 365  # minutes: submitit has a time limit of its own, of two


class Local(JobCompute):
    """The `local` compute: each stage is a process of this machine."""

    def __init__(self, workers: int, jobs: int, pool: int | None = None) -> None:
        super().__init__(workers)
        self._slots = BoundedSemaphore(jobs + (pool or 0))
        self._machine = _ThisMachine()
        self._pool = PooledCluster(self._machine, pool, self._machine.workers) if pool else None

    @property
    def cluster(self) -> "PooledCluster | _ThisMachine":
        """This machine, or the worker pool in front of it."""
        return self._pool or self._machine

    def check(self, kinds: Iterable[str]) -> None:
        """Raise ComputeError where submitit is missing."""
        import_submitit()

    def call(self, step: ComputeStep, stage: Callable[..., Any], *args: Any) -> Any:
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

    def _task(self, step: ComputeStep, stage: Callable[..., Any], args: tuple[Any, ...]) -> StageJob:
        visible = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}  # submitit hides all GPUs
        return replace(super()._task(step, stage, args), environment=visible)


class _ThisMachine:
    """A cluster of one machine; a job is named by its process and start time: `4711.88123`."""

    def __init__(self) -> None:
        self._jobs = dict[str, Any]()
        self._attached = set[str]()  # of an earlier process

    def submit(self, step: ComputeStep, task: StageJob) -> str:
        executor = import_submitit().LocalExecutor(step.folder)
        executor.update_parameters(timeout_min=_FOREVER)
        with _ignoring_interrupts():
            job = executor.submit(task)
        name = f"{job.job_id}.{lease.process_start_time(job.job_id)}"
        self._jobs[name] = job
        return name

    def workers(self, folder: Path) -> SubmititWorkers:
        """Return the starter of the pool's workers."""
        executor = import_submitit().LocalExecutor(folder)
        executor.update_parameters(timeout_min=_FOREVER)
        return SubmititWorkers(executor, around=_ignoring_interrupts)

    def attach(self, step: ComputeStep, job: str) -> None:
        """Do nothing: a process is looked up by its name."""

    def state(self, job: str) -> JobState:
        mine = self._jobs.get(job)
        if mine is not None:
            return JobState("FAILED" if mine.done() else "RUNNING")
        pid, _, started = job.partition(".")
        self._attached.add(job)
        return JobState("RUNNING" if lease.process_start_time(pid) == started else LOST)

    def forget(self, job: str) -> None:
        """Do nothing: processes need no query."""

    def waiting(self, state: JobState | None, seconds: float) -> str:
        return ""

    def log(self, step: ComputeStep, job: str) -> Path:
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


def import_submitit() -> Any:
    """Import and return the package submitit, once the first job is near; raise ComputeError without it."""
    try:
        import submitit as package
    except ImportError:
        command = f"{Path(sys.executable).name} -m pip install 'sia-runner[slurm]'"
        raise ComputeError(f"compute=local and compute=slurm need the package submitit: {command}") from None
    return package
