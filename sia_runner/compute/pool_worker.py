"""A worker of the pool, and the folder through which it exchanges tasks and results with the driver.

The folder may lie on any shared file system:

todo/<ticket>~<attempt>            a pickled callable, claimed by renaming it
held/<ticket>~<attempt>~<worker>   at work
done/<ticket>                      its outcome; linked to its name, so that there is one result only
workers/<worker>                   the worker's identity; touched while it lives
driver                             touched while a driver lives
closed                             exists when workers shall end"""

import os
import pickle
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.compute.task import RETURNED, StageOutcome, error_outcome
from sia_runner.store import lease
from sia_runner.store.lease import process_identity
from sia_runner.store.run_directory import read_json, write_json

TaskCallable = Callable[[], Any]
HEARTBEAT = 5.0  # seconds between touches
STALE_AFTER = 60.0  # seconds without a touch, where the process itself cannot be looked for

_TICKET = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class ClaimedTask:
    """A task at work; `file` holds the pickled callable."""

    file: Path

    @property
    def ticket(self) -> str:
        """The task's ticket."""
        return self.file.name.split("~")[0]

    @property
    def attempt(self) -> int:
        """The number of workers that were lost with it."""
        return int(self.file.name.split("~")[1])

    @property
    def worker(self) -> str:
        """The name of the worker that runs it."""
        return self.file.name.split("~")[2]

    def task(self) -> Any:
        """Load the task and run it."""
        return pickle.loads(self.file.read_bytes())()  # noqa: S301 - out of reach of every sandbox


class TaskFolder:
    """The folder of one pool."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.todo, self.held, self.done = path / "todo", path / "held", path / "done"
        self.workers, self.driver, self.closed = path / "workers", path / "driver", path / "closed"
        self._me = {"nonce": uuid.uuid4().hex, **process_identity()}

    def open(self) -> None:
        """Make the folders and announce this driver."""
        for folder in (self.todo, self.held, self.done, self.workers):
            folder.mkdir(parents=True, exist_ok=True)
        self.closed.unlink(missing_ok=True)
        write_json(self.driver, self._me)

    def close(self) -> None:
        """Tell workers to end, unless another driver has taken over since."""
        if read_json(self.driver) == self._me:
            self.closed.touch()

    def take_over(self) -> set[str]:
        """Return tickets of an earlier driver that are at work or finished; drop tasks that were not begun.

        Those are submitted again, with the current configuration.
        """
        for name in _list_fresh(self.todo):
            (self.todo / name).unlink(missing_ok=True)
        at_work = {claim.ticket for claim in self.claims()}
        returned = {name.split("~")[0] for name in _list_fresh(self.todo)}  # while we looked
        return at_work | returned | set(self.finished())

    def put(self, ticket: str, task: TaskCallable) -> None:
        """Queue a task.

        Raises ValueError where the ticket is no file name, pickle's error where the task cannot be pickled.
        """
        if not _TICKET.fullmatch(ticket):
            raise ValueError(f"ticket {ticket!r}: allowed are letters, digits and _ . -")
        _write(self.todo / f"{ticket}~0", pickle.dumps(task))

    def claim(self, worker: str) -> ClaimedTask | None:
        """Claim the first task, by the order of tickets, that no other worker claimed first."""
        for name in _list_fresh(self.todo):
            file = self.held / f"{name}~{worker}"
            try:
                (self.todo / name).rename(file)
            except FileNotFoundError:  # another worker was faster, or the server repeated the request
                if not file.exists():
                    continue
            return ClaimedTask(file)
        return None

    def publish(self, claim: ClaimedTask, outcome: StageOutcome) -> None:
        """Store an outcome and release the task; the first outcome of a ticket counts."""
        aside = self.done / f".{claim.file.name}.{uuid.uuid4().hex}"
        _write(aside, pickle.dumps(outcome))
        try:
            os.link(aside, self.done / claim.ticket)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
            claim.file.unlink(missing_ok=True)

    def give_back(self, claim: ClaimedTask, *, lost: bool) -> None:
        """Return a task for another worker, if it is still claimed.

        `lost`: its worker ended in the middle of it.
        """
        try:
            claim.file.rename(self.todo / f"{claim.ticket}~{claim.attempt + lost}")
        except FileNotFoundError:
            return

    def claims(self) -> list[ClaimedTask]:
        """List the tasks at work."""
        return [ClaimedTask(self.held / name) for name in _list_fresh(self.held)]

    def finished(self) -> list[str]:
        """List tickets with an outcome."""
        return _list_fresh(self.done)

    def outcome(self, ticket: str) -> StageOutcome:
        """Return the outcome of a ticket; raise KeyError while there is none."""
        try:
            return pickle.loads((self.done / ticket).read_bytes())  # noqa: S301 - out of reach of every sandbox
        except FileNotFoundError:
            raise KeyError(ticket) from None

    def forget(self, ticket: str) -> None:
        """Remove the outcome of a ticket."""
        (self.done / ticket).unlink(missing_ok=True)

    def at_work(self) -> list[str]:
        """List workers that announced themselves and have not left."""
        return _list_fresh(self.workers)

    def worker(self, name: str) -> dict[str, Any] | None:
        """Return the identity of a worker; None when it left."""
        try:
            return read_json(self.workers / name)
        except FileNotFoundError:
            return None


def run_task(task: TaskCallable) -> StageOutcome:
    """Run a task and return its outcome; an interrupt or an exit is raised as it is."""
    try:
        value = task()
        pickle.dumps(value)
    except Exception as error:  # noqa: BLE001 - it is raised again where the outcome is read
        return error_outcome(error)
    return StageOutcome(RETURNED, value)


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with aside.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)


def _list_fresh(folder: Path) -> list[str]:
    """List a folder.

    It is touched first: a network file system then lists it anew, instead of as it was half a minute ago.
    """
    os.utime(folder)
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208


# A worker that could not touch its file for so long may be taken for dead soon: it ends before its task runs twice.
SILENT = STALE_AFTER - 4 * HEARTBEAT
DRIVER_GONE = 600.0  # seconds without a touch by a driver, after which no task is begun
_PATIENCE = 0.05  # of the time waited already, to the next look
_SHORTEST, _LONGEST = 0.02, 1.0  # seconds between two looks


def poll_pause(waited: float) -> float:
    """Return seconds to the next look at a folder after `waited` seconds: short at first, long later."""
    return min(_LONGEST, max(_SHORTEST, _PATIENCE * waited))


@dataclass(frozen=True)
class PoolWorker:
    """A worker, submitted as a job.

    It ends after `idle` seconds without a task, and when the driver is gone for long.
    """

    spool: Path
    idle: float

    def __call__(self) -> None:
        """Serve tasks, in the job, until there are none."""
        from submitit import JobEnvironment

        for number in (signal.SIGTERM, signal.SIGUSR2):  # cancelled, preempted, near its time limit
            signal.signal(number, _leave)
        job = JobEnvironment().job_id
        spool, name = TaskFolder(self.spool), f"{job}.{uuid.uuid4().hex[:8]}"
        _return_claims(spool, job)
        me = spool.workers / name
        write_json(me, lease.process_identity())
        heartbeat = _Heartbeat(me)
        try:
            self._serve(spool, name)
        finally:
            heartbeat.stop()
            me.unlink(missing_ok=True)

    def _serve(self, spool: TaskFolder, name: str) -> None:
        since = last_look = time.monotonic()
        while not spool.closed.exists():
            if time.monotonic() - last_look > HEARTBEAT:
                last_look = time.monotonic()
                if lease.seconds_since_touch(spool.driver) > DRIVER_GONE:
                    return
            claim = spool.claim(name)
            if claim:
                _carry_out(spool, claim)
                since = time.monotonic()
                continue
            waited = time.monotonic() - since
            if waited > self.idle:
                return
            time.sleep(poll_pause(waited))


def _carry_out(spool: TaskFolder, claim: ClaimedTask) -> None:
    if (spool.done / claim.ticket).exists():  # given back while its first worker finished it all the same
        claim.file.unlink(missing_ok=True)
        return
    try:
        with _own_signals():
            outcome = run_task(claim.task)
    except BaseException:  # this process is to end: its task has done nothing wrong
        spool.give_back(claim, lost=False)
        raise
    spool.publish(claim, outcome)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Let a task handle the cluster's signals its own way, while it is at work."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _return_claims(spool: TaskFolder, job: str) -> None:
    """Give back what this very job held before it was requeued without a signal."""
    for claim in spool.claims():
        if claim.worker.rpartition(".")[0] == job:
            spool.give_back(claim, lost=True)


def _leave(signum: int, frame: Any) -> None:
    raise SystemExit(128 + signum)


class _Heartbeat:
    """A thread that touches a file while the process lives, and ends the process when that fails for long."""

    def __init__(self, file: Path) -> None:
        self._file, self._stop, self._beaten = file, threading.Event(), time.monotonic()
        for part in (self._beat, self._guard):
            threading.Thread(target=part, daemon=True, name="heart").start()

    def stop(self) -> None:
        self._stop.set()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                os.utime(self._file)
            except FileNotFoundError:  # the driver took this worker for dead
                self._end()
            except OSError:  # the file system is away: the guard counts
                continue
            self._beaten = time.monotonic()

    def _guard(self) -> None:
        """End a silent worker; apart from the beats, which hang while a file system is away."""
        while not self._stop.wait(1.0):
            if time.monotonic() - self._beaten > SILENT:
                self._end()

    def _end(self) -> None:
        if not self._stop.is_set():
            os._exit(1)  # the supervisors of its sandboxes see the closed pipe and kill what still runs
