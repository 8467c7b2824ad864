"""Run the short steps of a candidate by a few long-lived workers instead of a job each, which costs a second and more.

A task runs at least once, and has exactly one outcome. It goes to another worker when its own is lost. Everything is
in a folder of the run directory (see pool_worker): after a driver was killed, the next one finds outcomes and workers
there."""

import atexit
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, Protocol

from sia_runner.compute.jobs import ENDED, LOST, Cluster, JobState
from sia_runner.compute.pool_worker import (
    HEARTBEAT,
    STALE_AFTER,
    ClaimedTask,
    PoolWorker,
    TaskCallable,
    TaskFolder,
    poll_pause,
)
from sia_runner.compute.protocol import ComputeStep, JobStopped
from sia_runner.compute.task import StageJob, error_outcome
from sia_runner.store import lease
from sia_runner.store.run_directory import write_text


class JobStates(Protocol):
    """The job states of a cluster; see jobs.Cluster."""

    def state(self, job: str) -> JobState | None:
        """Return the last reported state; None before the first answer."""
        ...

    def forget(self, job: str) -> None:
        """Stop following a job."""
        ...


class NotSubmitted(Exception):
    """A submission that may succeed later; the message is one line."""


class WorkerJobs(Protocol):
    """A starter of the pool's workers."""

    def start(self, worker: Callable[[], None], count: int) -> list[str]:
        """Submit `count` workers and return their ids; raise NotSubmitted."""
        ...

    def ended(self, ids: Iterable[str]) -> set[str]:
        """Return the ids of jobs that run no more and never will."""
        ...

    def cancel(self, ids: Iterable[str]) -> None:
        """Cancel jobs that were started here; leave others alone."""
        ...

    def last_error_line(self, job: str) -> str:
        """Return the last line of the job's standard error."""
        ...


class SubmititWorkers:
    """Workers as jobs of a submitit executor, which has the resources of one worker.

    `cluster` reports the state of a job; None: processes of this machine, which submitit itself looks up. `around`: a
    context for submissions.
    """

    def __init__(
        self,
        executor: Any,
        cluster: JobStates | None = None,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._executor, self._cluster, self._around = executor, cluster, around
        self._jobs, self._over = dict[str, Any](), set[str]()

    def start(self, worker: Callable[[], None], count: int) -> list[str]:
        """Submit `count` workers and return their ids; raise NotSubmitted."""
        try:
            with self._around(), self._executor.batch():
                jobs = [self._executor.submit(worker) for _ in range(count)]
        except (RuntimeError, subprocess.CalledProcessError, OSError) as error:
            raise NotSubmitted(str(error).strip().rpartition("\n")[2]) from error
        started = {job.job_id: job for job in jobs}
        self._jobs |= started
        return list(started)

    def ended(self, ids: Iterable[str]) -> set[str]:
        """Return the ids of jobs that run no more and never will."""
        return {job for job in self._jobs.keys() & set(ids) if self._is_over(job)}

    def cancel(self, ids: Iterable[str]) -> None:
        """Cancel jobs that were started here; leave others alone."""
        for job in (self._jobs.keys() & set(ids)) - self.ended(ids):
            if self._cluster is not None:
                self._jobs[job].cancel(check=False)
            else:  # submitit's own way is a Ctrl-C, which processes of this machine ignore
                with suppress(ProcessLookupError):
                    os.kill(int(job), signal.SIGTERM)

    def _is_over(self, job: str) -> bool:
        if job in self._over:
            return True
        if self._cluster is None:
            return self._jobs[job].done()
        state = self._cluster.state(job)
        if state is None or state.name not in ENDED:
            return False
        self._over.add(job)
        self._cluster.forget(job)
        return True

    def last_error_line(self, job: str) -> str:
        """Return the last line of the job's standard error."""
        lines = (self._jobs[job].stderr() or "").splitlines() if job in self._jobs else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


_STILLBORN = 3  # jobs that end before they are at work, with none at work since
_PATIENCE, _AGAIN = 3600.0, 10.0  # seconds that a submission is tried again, and between two tries


class PoolError(JobStopped):
    """No worker can be started."""


class WorkerSet:
    """The workers of one pool."""

    def __init__(self, spool: TaskFolder, jobs: WorkerJobs) -> None:
        self._spool, self._jobs = spool, jobs
        self._queued: set[str] = set()  # jobs of ours that are not at work yet
        self._seen: set[str] = set()  # jobs that were at work
        self._working: set[str] = set()  # workers at work
        self._stillborn = 0
        self._refused: float | None = None  # since when no worker could be submitted
        self._next_try = 0.0

    def lost_tasks(self) -> list[ClaimedTask]:
        """Look at all workers again and return the tasks of lost ones.

        A worker that is struck off ends, should it still live.
        """
        claims = self._spool.claims()  # before the workers: who holds one of these has announced itself
        names = set(self._spool.at_work())
        finished = self._jobs.ended({job_of_worker(name) for name in names})
        lost = {name for name in names if job_of_worker(name) in finished or self._lost(name)}
        for name in lost:
            (self._spool.workers / name).unlink(missing_ok=True)
        self._working = names - lost
        started, at_work = {job_of_worker(name) for name in names}, {job_of_worker(name) for name in self._working}
        if started - self._seen:
            self._stillborn = 0
        self._seen |= started
        self._queued -= started
        self._jobs.cancel(started - at_work)  # out of reach, or queued once more: replaced
        return [claim for claim in claims if claim.worker not in self._working]

    def fill(self, count: int, worker: Callable[[], None]) -> None:
        """Start workers until `count` are at work or queued; raise PoolError when they die at once."""
        finished = self._jobs.ended(self._queued)
        self._queued -= finished
        stillborn = finished - self._seen
        self._stillborn += len(stillborn)
        if self._stillborn >= _STILLBORN:
            reason = self._jobs.last_error_line(min(stillborn)) if stillborn else "nothing"
            raise PoolError(f"{self._stillborn} workers ended before they were at work; the last said: {reason}")
        missing = count - len(self._working) - len(self._queued)
        if missing > 0 and time.monotonic() >= self._next_try:
            self._start(worker, missing)

    def _start(self, worker: Callable[[], None], count: int) -> None:
        try:
            self._queued |= set(self._jobs.start(worker, count))
            self._refused = None
        except NotSubmitted as error:  # the controller is away for a while, or the queue is full
            time_now = time.monotonic()
            self._refused, self._next_try = self._refused or time_now, time_now + _AGAIN
            if time_now - self._refused > _PATIENCE:
                raise PoolError(f"no worker could be submitted: {error}") from error

    def last_error_line(self, claim: ClaimedTask) -> str:
        """Return the last line on the standard error of its worker."""
        return self._jobs.last_error_line(job_of_worker(claim.worker))

    def dismiss(self, *, at_work: bool) -> None:
        """Cancel queued workers; with `at_work` also those at work.

        Workers of an earlier driver end by themselves.
        """
        self._jobs.cancel(
            self._queued | ({job_of_worker(name) for name in self._spool.at_work()} if at_work else set())
        )

    def _lost(self, name: str) -> bool:
        file = self._spool.workers / name
        who = self._spool.worker(name)
        return who is None or lease.process_ended(who, file, STALE_AFTER)


def job_of_worker(worker: str) -> str:
    """Return the job of a worker; a job that was requeued has had several."""
    return worker.rpartition(".")[0]


IDLE = 300.0  # seconds without a task after which a worker ends
ATTEMPTS = 3  # workers that a task may lose before it is given up
_LOOK = 2.0  # seconds between two looks at the workers


class WorkerLost(Exception):
    """The end of several workers in the middle of one task; the message is one line."""


class WorkerPool:
    """A pool of workers, for one driver and one thread of it.

    ``with Pool(run / "pool", Submitted(executor), slots=8) as pool:``. `slots`: workers, and so tasks at work at once.
    They start with the first task, and are replaced when lost.
    """

    def __init__(self, folder: Path, jobs: WorkerJobs, slots: int, *, idle: float = IDLE) -> None:
        self._spool, self._slots, self._idle = TaskFolder(folder), slots, idle
        self._workers = WorkerSet(self._spool, jobs)
        self._known: set[str] = set()  # tickets in the spool
        self._open: dict[str, None] = {}  # tickets whose outcome was not returned yet, in the order of submission
        self._looked, self._count = -_LOOK, 0
        self._closed = threading.Event()

    def __enter__(self) -> "WorkerPool":
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(at_work=kind is not None)

    def open(self) -> None:
        """Take over the folder and start the heartbeat."""
        self._spool.open()
        self._known = self._spool.take_over()
        threading.Thread(target=self._beat, daemon=True, name="pool").start()

    def close(self, *, at_work: bool = False) -> None:
        """Tell workers to end after their task; with `at_work` cancel them, and their tasks wait."""
        if not self._closed.is_set():
            self._closed.set()
            self._spool.close()
            self._workers.dismiss(at_work=at_work)

    def unused(self, name: str) -> str:
        """Return a new ticket with that name in it, behind all earlier ones."""
        while f"{self._count:07}-{name}" in self._known:
            self._count += 1
        self._count += 1
        return f"{self._count - 1:07}-{name}"

    def adopt(self, ticket: str) -> bool:
        """Also wait for a task of an earlier driver; return False where it is neither at work nor finished."""
        if ticket not in self._known:
            return False
        self._open[ticket] = None
        return True

    def submit(self, ticket: str, task: TaskCallable) -> str:
        """Queue a task; tasks begin in the order of their tickets.

        A ticket that is in the spool already is not queued again.
        """
        if ticket not in self._known:
            self._spool.put(ticket, task)
            self._known.add(ticket)
        self._open[ticket] = None
        return ticket

    def wait_any(self, timeout: float | None = None) -> list[str]:
        """Return tickets that have an outcome and were not returned before, in the order of submission.

        At least one, but for a `timeout` in seconds or where nothing is open. Raises PoolError.
        """
        began = time.monotonic()
        while self._open:
            self._look_after()
            finished = set(self._spool.finished())
            if ready := [ticket for ticket in self._open if ticket in finished]:
                for ticket in ready:
                    del self._open[ticket]
                return ready
            waited = time.monotonic() - began
            if timeout is not None and waited >= timeout:
                break
            time.sleep(poll_pause(waited) if timeout is None else min(poll_pause(waited), timeout - waited))
        return []

    def result(self, ticket: str) -> Any:
        """Return the task's result or raise its exception; KeyError while it has no outcome."""
        return self._spool.outcome(ticket).result()

    def forget(self, ticket: str) -> None:
        """Drop a ticket and its outcome; the same ticket would be a new task."""
        self._spool.forget(ticket)
        self._known.discard(ticket)
        self._open.pop(ticket, None)

    def _look_after(self) -> None:
        """Queue again what lost workers held, and start as many workers as there is work for."""
        if time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        for claim in self._workers.lost_tasks():
            if claim.attempt + 1 < ATTEMPTS:
                self._spool.give_back(claim, lost=True)
            else:
                last = self._workers.last_error_line(claim)
                lost = f"{ATTEMPTS} workers ended in the middle of it; the last said: {last}"
                self._spool.publish(claim, error_outcome(WorkerLost(f"task {claim.ticket}: {lost}")))
        self._workers.fill(min(self._slots, len(self._open)), PoolWorker(self._spool.path, self._idle))

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # workers wait for minutes
                os.utime(self._spool.driver)


POOLED_KINDS = frozenset(
    {"gate", "run", "verify"}
)  # short, and alike in what they need: a worker has the resources of `run`
_LOST_FILE = "workers.err"  # in the folder of a step: why no worker could end it
_TICKET_PREFIX = "worker:"  # before a ticket, where the journal has the id of a job


class PooledCluster:
    """A cluster with a pool in front: `slots` workers, started through `workers(folder)`.

    Every other kind of step goes to `cluster`. A task leaves its outcome file, as in a job of its own; the pool reports
    only that it ended.
    """

    def __init__(self, cluster: Cluster, slots: int, workers: Callable[[Path], WorkerJobs]) -> None:
        self._cluster, self._slots, self._workers = cluster, slots, workers
        self._pools: dict[Path, WorkerPool] = {}  # by run
        self._lock = threading.Lock()  # several steps are under way at once, each on a thread of its own
        self._ended: dict[str, JobState] = {}
        self._of: dict[str, tuple[WorkerPool, Path]] = {}  # ticket -> where it is, and the folder of its step

    def submit(self, step: ComputeStep, task: StageJob) -> str:
        """Give a step to the pool or to the cluster, and return its id."""
        if step.kind not in POOLED_KINDS:
            return self._cluster.submit(step, task)
        with self._lock:
            pool = self._pool(step)
            ticket = pool.submit(pool.unused(step.key.replace("/", ".")), task)
            self._of[ticket] = pool, step.folder
        return _TICKET_PREFIX + ticket

    def attach(self, step: ComputeStep, job: str) -> None:
        """Follow a step of an earlier process."""
        if not job.startswith(_TICKET_PREFIX):
            return self._cluster.attach(step, job)
        with self._lock:
            pool, ticket = self._pool(step), job.removeprefix(_TICKET_PREFIX)
            if pool.adopt(ticket):
                self._of[ticket] = pool, step.folder

    def state(self, job: str) -> JobState | None:
        """Return the state of a step."""
        if not job.startswith(_TICKET_PREFIX):
            return self._cluster.state(job)
        ticket = job.removeprefix(_TICKET_PREFIX)
        with self._lock:
            if ticket not in self._of:
                return JobState(LOST)
            for finished in self._of[ticket][0].wait_any(0):
                self._ended[finished] = _final_state(finished, *self._of[finished])
            return self._ended.get(ticket, JobState("RUNNING"))

    def forget(self, job: str) -> None:
        """Stop following a step."""
        ticket = job.removeprefix(_TICKET_PREFIX)
        if ticket == job:
            return self._cluster.forget(job)
        with self._lock:
            self._ended.pop(ticket, None)
            if ticket in self._of:
                self._of.pop(ticket)[0].forget(ticket)

    def waiting(self, state: JobState | None, seconds: float) -> str:
        """Explain a job's state to a user who has waited for `seconds`; empty for no news."""
        return self._cluster.waiting(state, seconds)

    def log(self, step: ComputeStep, job: str) -> Path:
        """Return the file with the standard error of a step's job or the loss of its workers."""
        return step.folder / _LOST_FILE if job.startswith(_TICKET_PREFIX) else self._cluster.log(step, job)

    def end(self) -> None:
        """Cancel all workers and their tasks."""
        for pool in self._pools.values():
            pool.close(at_work=True)

    def _pool(self, step: ComputeStep) -> WorkerPool:
        folder = _folder(step)
        if folder not in self._pools:
            pool = WorkerPool(folder / "spool", self._workers(folder / "jobs"), self._slots)
            self._pools[folder] = pool
            pool.open()
            atexit.register(pool.close)
        return self._pools[folder]


def _folder(step: ComputeStep) -> Path:
    """Return jobs/workers beside the folders of the run's steps (jobs/gen_3/run)."""
    return step.folder.parents[step.key.count("/")] / "workers"


def _final_state(ticket: str, pool: WorkerPool, folder: Path) -> JobState:
    try:
        pool.result(ticket)
    except WorkerLost as lost:
        write_text(folder / _LOST_FILE, f"{lost}\n")
        return JobState("FAILED")
    return JobState("COMPLETED")
