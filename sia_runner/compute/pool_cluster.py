"""Run the short steps of a candidate by long-lived workers instead of a job each, as a `jobs.Cluster`."""

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
    """A cluster with a pool in front: `slots` workers, started through `workers(folder)`.

    Every other kind of step goes to `cluster`. A task leaves its outcome file, as in a job of its own; the pool reports
    only that it ended.
    """

    def __init__(self, cluster: Cluster, slots: int, workers: Callable[[Path], Jobs]) -> None:
        self._cluster, self._slots, self._workers = cluster, slots, workers
        self._pools: dict[Path, Pool] = {}  # by run
        self._lock = threading.Lock()  # several steps are under way at once, each on a thread of its own
        self._ended: dict[str, State] = {}
        self._of: dict[str, tuple[Pool, Path]] = {}  # ticket -> where it is, and the folder of its step

    def submit(self, step: Step, task: Task) -> str:
        """Give a step to the pool or to the cluster, and return its id."""
        if step.kind not in KINDS:
            return self._cluster.submit(step, task)
        with self._lock:
            pool = self._pool(step)
            ticket = pool.submit(pool.unused(step.key.replace("/", ".")), task)
            self._of[ticket] = pool, step.folder
        return _MARK + ticket

    def attach(self, step: Step, job: str) -> None:
        """Follow a step of an earlier process."""
        if not job.startswith(_MARK):
            return self._cluster.attach(step, job)
        with self._lock:
            pool, ticket = self._pool(step), job.removeprefix(_MARK)
            if pool.adopt(ticket):
                self._of[ticket] = pool, step.folder

    def state(self, job: str) -> State | None:
        """Return the state of a step."""
        if not job.startswith(_MARK):
            return self._cluster.state(job)
        ticket = job.removeprefix(_MARK)
        with self._lock:
            if ticket not in self._of:
                return State(LOST)
            for finished in self._of[ticket][0].wait_any(0):
                self._ended[finished] = _ending(finished, *self._of[finished])
            return self._ended.get(ticket, State("RUNNING"))

    def forget(self, job: str) -> None:
        """Stop following a step."""
        ticket = job.removeprefix(_MARK)
        if ticket == job:
            return self._cluster.forget(job)
        with self._lock:
            self._ended.pop(ticket, None)
            if ticket in self._of:
                self._of.pop(ticket)[0].forget(ticket)

    def waiting(self, state: State | None, seconds: float) -> str:
        """Explain a job's state to a user who has waited for `seconds`; empty for no news."""
        return self._cluster.waiting(state, seconds)

    def log(self, step: Step, job: str) -> Path:
        """Return the file with the standard error of a step's job or the loss of its workers."""
        return step.folder / _LOST if job.startswith(_MARK) else self._cluster.log(step, job)

    def end(self) -> None:
        """Cancel all workers and their tasks."""
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
    """Return jobs/workers beside the folders of the run's steps (jobs/gen_3/run)."""
    return step.folder.parents[step.key.count("/")] / "workers"


def _ending(ticket: str, pool: Pool, folder: Path) -> State:
    try:
        pool.result(ticket)
    except WorkerLost as lost:
        write_text(folder / _LOST, f"{lost}\n")
        return State("FAILED")
    return State("COMPLETED")
