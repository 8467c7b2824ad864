"""Start workers as submitit jobs: one array each time, on SLURM or as processes of this machine."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Protocol

from sia_runner.compute.jobs import ENDED, State


class States(Protocol):
    """The job states of a cluster; see jobs.Cluster."""

    def state(self, job: str) -> State | None:
        """Return the last reported state; None before the first answer."""
        ...

    def forget(self, job: str) -> None:
        """Stop following a job."""
        ...


class NotSubmitted(Exception):
    """A submission that may succeed later; the message is one line."""


class Jobs(Protocol):
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


class Submitted:
    """Workers as jobs of a submitit executor, which has the resources of one worker.

    `cluster` reports the state of a job; None: processes of this machine, which submitit itself looks up. `around`: a
    context for submissions.
    """

    def __init__(
        self,
        executor: Any,
        cluster: States | None = None,
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
