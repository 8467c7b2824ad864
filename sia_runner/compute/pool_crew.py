"""The pool's workers as its driver sees them: queued, at work, lost."""

import time
from collections.abc import Callable

from sia_runner.compute.pool_jobs import Jobs, NotSubmitted
from sia_runner.compute.pool_spool import STALE_AFTER, Claim, Spool
from sia_runner.compute.protocol import Stopped
from sia_runner.ground import alive

_STILLBORN = 3  # jobs that end before they are at work, with none at work since
_PATIENCE, _AGAIN = 3600.0, 10.0  # seconds that a submission is tried again, and between two tries


class PoolError(Stopped):
    """No worker can be started."""


class Crew:
    """The workers of one pool."""

    def __init__(self, spool: Spool, jobs: Jobs) -> None:
        self._spool, self._jobs = spool, jobs
        self._queued: set[str] = set()  # jobs of ours that are not at work yet
        self._seen: set[str] = set()  # jobs that were at work
        self._working: set[str] = set()  # workers at work
        self._stillborn = 0
        self._refused: float | None = None  # since when no worker could be submitted
        self._next_try = 0.0

    def orphans(self) -> list[Claim]:
        """Look at all workers again and return the tasks of lost ones.

        A worker that is struck off ends, should it still live.
        """
        claims = self._spool.claims()  # before the workers: who holds one of these has announced itself
        names = set(self._spool.at_work())
        finished = self._jobs.ended({job_of(name) for name in names})
        lost = {name for name in names if job_of(name) in finished or self._lost(name)}
        for name in lost:
            (self._spool.workers / name).unlink(missing_ok=True)
        self._working = names - lost
        started, at_work = {job_of(name) for name in names}, {job_of(name) for name in self._working}
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

    def last_error_line(self, claim: Claim) -> str:
        """Return the last line on the standard error of its worker."""
        return self._jobs.last_error_line(job_of(claim.worker))

    def dismiss(self, *, at_work: bool) -> None:
        """Cancel queued workers; with `at_work` also those at work.

        Workers of an earlier driver end by themselves.
        """
        self._jobs.cancel(self._queued | ({job_of(name) for name in self._spool.at_work()} if at_work else set()))

    def _lost(self, name: str) -> bool:
        file = self._spool.workers / name
        who = self._spool.worker(name)
        return who is None or alive.gone(who, file, STALE_AFTER)


def job_of(worker: str) -> str:
    """Return the job of a worker; a job that was requeued has had several."""
    return worker.rpartition(".")[0]
