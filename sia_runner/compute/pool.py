"""Give tasks to a few long-lived workers: a job of its own for each task costs a second and more of start-up.

A task runs at least once, and has exactly one outcome. It goes to another worker when its own is lost. Everything is in
the spool, a folder of the run directory: after a driver was killed, the next one finds outcomes and workers there.
"""

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

from sia_runner.compute.outcome import raised
from sia_runner.compute.pool_crew import Crew
from sia_runner.compute.pool_jobs import Jobs
from sia_runner.compute.pool_spool import HEARTBEAT, Spool, Task
from sia_runner.compute.pool_worker import Worker, pause

IDLE = 300.0  # seconds without a task after which a worker ends
ATTEMPTS = 3  # workers that a task may lose before it is given up
_LOOK = 2.0  # seconds between two looks at the workers


class WorkerLost(Exception):
    """The end of several workers in the middle of one task; the message is one line."""


class Pool:
    """A pool of workers, for one driver and one thread of it.

    ``with Pool(run / "pool", Submitted(executor), slots=8) as pool:``. `slots`: workers, and so tasks at work at once.
    They start with the first task, and are replaced when lost.
    """

    def __init__(self, folder: Path, jobs: Jobs, slots: int, *, idle: float = IDLE) -> None:
        self._spool, self._slots, self._idle = Spool(folder), slots, idle
        self._workers = Crew(self._spool, jobs)
        self._known: set[str] = set()  # tickets in the spool
        self._open: dict[str, None] = {}  # tickets whose outcome was not returned yet, in the order of submission
        self._looked, self._count = -_LOOK, 0
        self._closed = threading.Event()

    def __enter__(self) -> "Pool":
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

    def submit(self, ticket: str, task: Task) -> str:
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
            time.sleep(pause(waited) if timeout is None else min(pause(waited), timeout - waited))
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
        for claim in self._workers.orphans():
            if claim.attempt + 1 < ATTEMPTS:
                self._spool.give_back(claim, lost=True)
            else:
                last = self._workers.last_error_line(claim)
                lost = f"{ATTEMPTS} workers ended in the middle of it; the last said: {last}"
                self._spool.publish(claim, raised(WorkerLost(f"task {claim.ticket}: {lost}")))
        self._workers.fill(min(self._slots, len(self._open)), Worker(self._spool.path, self._idle))

    def _beat(self) -> None:
        while not self._closed.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # workers wait for minutes
                os.utime(self._spool.driver)
