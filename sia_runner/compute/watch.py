"""Follow the states of all jobs of this process by one squeue for all of them, on a thread of its own.

No answer of squeue is no news: a controller that is away for minutes loses nothing. A job that squeue does not list any
more is over; sacct reports how it ended where the cluster has accounting. Elsewhere it is lost, unless it left an
outcome.
"""

import subprocess
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from sia_runner.compute.jobs import LOST, State

_TIMEOUT = 60.0  # seconds for one query
_SOONEST, _LATEST = 1.0, 10.0  # seconds between two queries: while a job is young, and later on
_YOUNG = 30.0  # a job's age in seconds by which the pause grows by one
_PLACES = 60.0  # seconds between two looks at all that waits, which may be many: positions change slowly


class Watch:
    """A thread that queries squeue while jobs are followed.

    `state(job)` is quick and never blocks; the first call starts the thread, which ends when no job is followed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}  # job -> when it was first asked for
        self._known: dict[str, State] = {}
        self._thread: threading.Thread | None = None
        self._answered = 0.0
        self._places: dict[str, str] = {}  # job -> its place among those that wait
        self._placed = 0.0

    def state(self, job: str) -> State | None:
        """Return the last reported state of a job, and follow it from now on."""
        with self._lock:
            self._since.setdefault(job, time.monotonic())
            if self._thread is None:
                self._answered = time.monotonic()
                self._thread = threading.Thread(target=self._poll, name="squeue", daemon=True)
                self._thread.start()
            return self._known.get(job)

    def silence(self) -> float:
        """Return the seconds since the last answer, while jobs are followed."""
        with self._lock:
            return time.monotonic() - self._answered if self._thread else 0.0

    def forget(self, job: str) -> None:
        """Stop following a job."""
        with self._lock:
            self._since.pop(job, None)
            self._known.pop(job, None)

    def _poll(self) -> None:
        while True:
            with self._lock:
                jobs = dict(self._since)
                if not jobs:
                    self._thread = None
                    return
            states = self._with_places(self._ask(jobs), min(jobs.values()))
            with self._lock:
                self._answered = time.monotonic() if states else self._answered
                self._known |= {job: state for job, state in states.items() if job in self._since}
            youngest = time.monotonic() - max(jobs.values())
            time.sleep(min(_LATEST, max(_SOONEST, youngest / _YOUNG)))

    def _ask(self, jobs: Collection[str]) -> dict[str, State]:
        """Query the states of jobs; leave out those without an answer."""
        states = self._squeue(sorted(jobs))
        if states is None:
            return {}
        missing = [job for job in jobs if job not in states]
        if not missing:
            return states
        past = self._sacct(missing)
        return states | {job: past.get(job, State(LOST)) for job in missing}

    def _with_places(self, states: dict[str, State], oldest: float) -> dict[str, State]:
        """Add the queue positions of pending jobs, once the oldest has waited for a while."""
        queues = {state.queue for state in states.values() if state.name == "PENDING" and state.queue}
        time_now = time.monotonic()
        if queues and time_now - max(oldest, self._placed) >= _PLACES * 0.9:
            self._placed, self._places = time_now, places(sorted(queues))
        return {job: replace(state, position=self._places.get(job, "")) for job, state in states.items()}

    def _squeue(self, jobs: Sequence[str]) -> dict[str, State] | None:
        # asked for one that it does not know, squeue fails; asked for two, it does not
        ids = ",".join([*jobs, jobs[0]])
        options = ["--noheader", "--array", "--all", "--states=all", "--format=%i|%T|%r|%S|%P"]
        answer = _run(["squeue", *options, f"--jobs={ids}"])
        if answer is None or (answer.returncode and "Invalid job id" not in answer.stderr):
            return None
        return _parsed(answer.stdout, jobs)

    def _sacct(self, jobs: Sequence[str]) -> dict[str, State]:
        """Return the states of finished jobs; empty where there is no accounting."""
        answer = _run(["sacct", "-X", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={','.join(jobs)}"])
        return {} if answer is None or answer.returncode else _parsed(answer.stdout, jobs)


def places(queues: Sequence[str]) -> dict[str, str]:
    """Map each pending job to its place in its partition, by priority: ``3 of 17``.

    A job that waits in several partitions counts in each.
    """
    waiting = ["squeue", "--noheader", "--all", "--states=PENDING", "--sort=-p,i", "--format=%i"]
    positions: dict[str, str] = {}
    for queue in queues:
        answer = _run([*waiting, f"--partition={queue}"])
        jobs = answer.stdout.split() if answer and not answer.returncode else []
        positions |= {job: f"{at} of {len(jobs)}" for at, job in enumerate(jobs, 1)}
    return positions


def _parsed(text: str, jobs: Collection[str]) -> dict[str, State]:
    """Parse lines of `id|STATE|reason|start|partition`, or `id|STATE`; sacct writes ``CANCELLED by 0``."""
    rows = [line.split("|") for line in text.splitlines() if "|" in line]
    return {row[0]: _state(*row[1:]) for row in rows if row[0] in jobs}


def _state(name: str, reason: str = "", start: str = "", queue: str = "") -> State:
    return State(name.partition(" ")[0], reason, "" if start == "N/A" else start, queue)


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    """None: it could not be run, or answered too late."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
