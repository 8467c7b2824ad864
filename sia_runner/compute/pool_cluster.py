"""The steps of a candidate by long-lived workers instead of a job each. See jobs.Cluster, of which this is one."""

import atexit
import threading
from collections.abc import Callable
from pathlib import Path

from sia_runner.compute.jobs import LOST, Cluster, State
from sia_runner.compute.pool import Pool, WorkerLost
from sia_runner.compute.pool_jobs import Jobs
from sia_runner.compute.protocol import Step
from sia_runner.compute.task import Task
from sia_runner.rundir import write_text

KINDS = frozenset({"gate", "run", "verify"})  # short, and alike in what they need: a worker has the resources of `run`
_LOST = "workers.err"  # in the folder of a step: why no worker could end it
_MARK = "worker:"  # before a ticket, where the journal has the id of a job


class Pooled:
    """`slots` workers, started through `workers(folder)`; every other kind of step goes to `cluster`.

    What a task leaves is its outcome file, as in a job of its own; the pool says only that it ended.
    """

    def __init__(self, cluster: Cluster, slots: int, workers: Callable[[Path], Jobs]) -> None:
        self._cluster, self._slots, self._workers = cluster, slots, workers
        self._pools: dict[Path, Pool] = {}  # by run
        self._lock = threading.Lock()  # several steps are under way at once, each on a thread of its own
        self._ended: dict[str, State] = {}
        self._of: dict[str, tuple[Pool, Path]] = {}  # ticket -> where it is, and the folder of its step

    def submit(self, step: Step, task: Task) -> str:
        if step.kind not in KINDS:
            return self._cluster.submit(step, task)
        with self._lock:
            pool = self._pool(step)
            ticket = pool.submit(pool.unused(step.key.replace("/", ".")), task)
            self._of[ticket] = pool, step.folder
        return _MARK + ticket

    def attach(self, step: Step, job: str) -> None:
        """Of an earlier process: it is asked for from now on."""
        if not job.startswith(_MARK):
            return self._cluster.attach(step, job)
        with self._lock:
            pool, ticket = self._pool(step), job.removeprefix(_MARK)
            if pool.adopt(ticket):
                self._of[ticket] = pool, step.folder

    def state(self, job: str) -> State | None:
        if not job.startswith(_MARK):
            return self._cluster.state(job)
        ticket = job.removeprefix(_MARK)
        with self._lock:
            if ticket not in self._of:
                return State(LOST)
            for told in self._of[ticket][0].wait_any(0):
                self._ended[told] = _ending(told, *self._of[told])
            return self._ended.get(ticket, State("RUNNING"))

    def forget(self, job: str) -> None:
        ticket = job.removeprefix(_MARK)
        if ticket == job:
            return self._cluster.forget(job)
        with self._lock:
            self._ended.pop(ticket, None)
            if ticket in self._of:
                self._of.pop(ticket)[0].forget(ticket)

    def waiting(self, state: State | None, seconds: float) -> str:
        return self._cluster.waiting(state, seconds)

    def log(self, step: Step, job: str) -> Path:
        return step.folder / _LOST if job.startswith(_MARK) else self._cluster.log(step, job)

    def end(self) -> None:
        """Nobody waits for what is at work."""
        for pool in self._pools.values():
            pool.close(at_work=True)

    def _pool(self, step: Step) -> Pool:
        folder = _folder(step)
        if folder not in self._pools:
            pool = Pool(folder / "spool", self._workers(folder / "jobs"), self._slots)
            self._pools[folder] = pool
            pool.open()
            atexit.register(pool.close)
        return self._pools[folder]


def _folder(step: Step) -> Path:
    """jobs/workers beside the folders of the run's steps (jobs/gen_3/run)."""
    return step.folder.parents[step.key.count("/")] / "workers"


def _ending(ticket: str, pool: Pool, folder: Path) -> State:
    try:
        pool.result(ticket)
    except WorkerLost as lost:
        write_text(folder / _LOST, f"{lost}\n")
        return State("FAILED")
    return State("COMPLETED")
