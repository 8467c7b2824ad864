"""A worker of the pool: it runs tasks from the spool, one after another, until none comes for long."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.compute.pool_spool import HEARTBEAT, STALE_AFTER, Claim, Spool, ran
from sia_runner.ground import alive
from sia_runner.rundir import write_json

# A worker that could not touch its file for so long may be taken for dead soon: it ends before its task runs twice.
SILENT = STALE_AFTER - 4 * HEARTBEAT
DRIVER_GONE = 600.0  # seconds without a touch by a driver, after which no task is begun
_PATIENCE = 0.05  # of the time waited already, to the next look
_SHORTEST, _LONGEST = 0.02, 1.0  # seconds between two looks


def pause(waited: float) -> float:
    """Return seconds to the next look at a folder after `waited` seconds: short at first, long later."""
    return min(_LONGEST, max(_SHORTEST, _PATIENCE * waited))


@dataclass(frozen=True)
class Worker:
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
        spool, name = Spool(self.spool), f"{job}.{uuid.uuid4().hex[:8]}"
        _return_claims(spool, job)
        me = spool.workers / name
        write_json(me, alive.identity())
        heartbeat = _Heartbeat(me)
        try:
            self._serve(spool, name)
        finally:
            heartbeat.stop()
            me.unlink(missing_ok=True)

    def _serve(self, spool: Spool, name: str) -> None:
        since = last_look = time.monotonic()
        while not spool.closed.exists():
            if time.monotonic() - last_look > HEARTBEAT:
                last_look = time.monotonic()
                if alive.untouched(spool.driver) > DRIVER_GONE:
                    return
            claim = spool.claim(name)
            if claim:
                _carry_out(spool, claim)
                since = time.monotonic()
                continue
            waited = time.monotonic() - since
            if waited > self.idle:
                return
            time.sleep(pause(waited))


def _carry_out(spool: Spool, claim: Claim) -> None:
    if (spool.done / claim.ticket).exists():  # given back while its first worker finished it all the same
        claim.file.unlink(missing_ok=True)
        return
    try:
        with _own_signals():
            outcome = ran(claim.task)
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


def _return_claims(spool: Spool, job: str) -> None:
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
