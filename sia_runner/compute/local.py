"""Run jobs as processes of this machine through submitit's local executor, a limited number at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

from sia_runner.compute.jobs import LOST, Cluster, JobCompute, JobState
from sia_runner.compute.pool import PooledCluster, WorkerLost
from sia_runner.compute.protocol import ComputeError, ComputeStep
from sia_runner.compute.task import StageJob
from sia_runner.store import lease

_FOREVER = 60 * 24 * 365  # minutes: submitit has a time limit of its own, of two


class Local(JobCompute):
    """The `local` compute: each stage is a process of this machine."""

    def __init__(self, workers: int, jobs: int, pool: int | None = None) -> None:
        self._machine = _ThisMachine()
        self._pool = PooledCluster(self._machine, pool, _Process) if pool else None
        super().__init__(workers, self._pool or self._machine, BoundedSemaphore(jobs + (pool or 0)))

    def check(self, kinds: Iterable[str]) -> None:
        """Raise ComputeError where submitit is missing."""
        import_submitit()

    def end(self) -> None:
        """End all jobs and workers."""
        if self._pool:
            self._pool.end()
        self._machine.end()

    def _task(self, step: ComputeStep, stage: Callable[..., Any], args: tuple[Any, ...]) -> StageJob:
        visible = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")}  # submitit hides all GPUs
        return replace(super()._task(step, stage, args), environment=visible)


class _ThisMachine(Cluster):
    """A cluster of one machine; a job is named by its process and start time: `4711.88123`."""

    def __init__(self) -> None:
        self._processes = dict[str, subprocess.Popen[bytes]]()
        self._attached = set[str]()  # of an earlier process

    def submit(self, step: ComputeStep, task: StageJob) -> str:
        executor = import_submitit().LocalExecutor(step.folder)
        executor.update_parameters(timeout_min=_FOREVER)
        main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None  # jobs ignore Ctrl-C as well
        try:
            process = executor.submit(task)._process  # not the job itself: its __del__ fails when Python ends
        finally:
            if main:
                signal.signal(signal.SIGINT, before)
        name = f"{process.pid}.{lease.process_start_time(process.pid)}"
        self._processes[name] = process
        return name

    def state(self, job: str) -> JobState:
        if mine := self._processes.get(job):
            return JobState("RUNNING" if mine.poll() is None else "FAILED")
        pid, _, started = job.partition(".")
        self._attached.add(job)
        return JobState("RUNNING" if lease.process_start_time(pid) == started else LOST)

    def log(self, step: ComputeStep, job: str) -> Path:
        return step.folder / f"{job.partition('.')[0]}_0_log.err"

    def cancel(self, job: str) -> None:
        """Terminate a job; submitit's process passes the signal on."""
        if self.state(job).name == "RUNNING":
            os.kill(int(job.partition(".")[0]), signal.SIGTERM)

    def end(self) -> None:
        """Terminate all jobs."""
        for job in (*self._processes, *self._attached):
            self.cancel(job)


class _Process:
    """A process pool of one worker: a larger one ends all its workers when one is lost."""

    def __init__(self, log: Path) -> None:
        self._log = log
        log.touch()
        context = multiprocessing.get_context("forkserver")  # imports once for all; and this process has threads
        context.set_forkserver_preload(["__main__", __name__])
        self._pool = ProcessPoolExecutor(1, context, _prepare_worker, (log,))
        self._pid = self._call(os.getpid)

    @property
    def alive(self) -> bool:
        return bool(lease.process_start_time(self._pid))

    def run(self, task: StageJob) -> None:
        self._call(_run_stage, task)

    def end(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return self._pool.submit(function, *args).result()
        except BrokenExecutor as error:
            raise WorkerLost(self._log) from error


_at_work = threading.Lock()  # in a worker


def _run_stage(task: StageJob) -> None:
    with _at_work:
        task()


def _prepare_worker(log: Path) -> None:
    """Let a new worker write in `log`, ignore Ctrl-C, which is meant for the driver, and end after the driver."""
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_after_driver, daemon=True).start()


def _end_after_driver() -> None:
    if driver := multiprocessing.parent_process():
        driver.join()
    with _at_work:  # a stage that is under way leaves its outcome to the next driver
        os._exit(0)


def import_submitit() -> Any:
    """Import and return the package submitit, once the first job is near; raise ComputeError without it."""
    try:
        import submitit as package
    except ImportError:
        command = f"{Path(sys.executable).name} -m pip install 'sia-runner[slurm]'"
        raise ComputeError(f"compute=local and compute=slurm need the package submitit: {command}") from None
    return package
