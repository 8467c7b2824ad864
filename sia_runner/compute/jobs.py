"""Stages as jobs: submit, journal the id, wait, collect; after a kill of the driver, find the job again.

A step may be submitted several times; its outcome is one file, which counts. See outcome.py and task.py.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sia_runner.compute import outcome as outcomes
from sia_runner.compute.outcome import CUT, RAISED, Outcome
from sia_runner.compute.protocol import Step, Stopped
from sia_runner.compute.task import TIME_LIMIT, Task, marks
from sia_runner.ground.parallel import parallel

T = TypeVar("T")
R = TypeVar("R")

_AGAIN = 10  # jobs of a step that may be lost, one after the other
_SETTLE = 5.0  # seconds that an ended job's outcome may take to be seen through a network file system
_RETURN = 15.0  # seconds until a job whose node failed may be in the queue again
_FIRST_LOOKS, _LOOKS = 0.1, 1.0  # seconds between two looks for the outcome: at first, and later
_AGAIN_TOLD = 60.0  # seconds of waiting that are doubled before the same news of a job is told again, with new figures
# where memory is held by sampling, SLURM calls such a job FAILED
_MEMORY = re.compile(r"exceeded (job )?memory limit|oom.kill|out of memory", re.I)
LOST = "LOST"  # the cluster knows it no more
_GONE = frozenset({LOST, "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED"})  # nobody's fault: submit again
ENDED = frozenset({"COMPLETED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "FAILED", "DEADLINE"}) | _GONE


@dataclass(frozen=True, slots=True)
class State:
    name: str  # as SLURM calls it
    reason: str = ""  # why it does not run
    start: str = ""  # when it is expected to, as the cluster estimates; empty: nobody knows
    queue: str = ""  # its partition
    place: str = ""  # there, among those that wait: "3 of 17"


class Cluster(Protocol):
    """Where jobs run."""

    def submit(self, step: Step, task: Task) -> str:
        """The id of the new job. Raises Stopped when it is refused."""
        ...

    def attach(self, step: Step, job: str) -> None:
        """A job of an earlier process is asked for from now on."""
        ...

    def state(self, job: str) -> State | None:
        """As last heard; None while nobody answered."""
        ...

    def forget(self, job: str) -> None:
        """Nobody asks for it any more."""
        ...

    def waiting(self, state: State | None, seconds: float) -> str:
        """What to tell somebody who has been waiting for a job for so long; empty for nothing."""
        ...

    def log(self, step: Step, job: str) -> Path:
        """What the job wrote on its standard error."""
        ...


class Jobs(ABC):
    """See protocol.Compute."""

    apart = True

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Inside a job or the driver: by threads, as `inline` does."""
        return parallel(work, items, self._workers)

    def call(self, step: Step, stage: Callable[..., R], *args: Any) -> R:
        ended = self._attached(step) if step.submitted else None
        if ended is None and self._in_driver(step.kind):
            return stage(*args)
        for _ in range(_AGAIN):
            if ended is not None:
                break
            with self._slot():
                ended = self._submitted(step, self._task(step, stage, args))
        if ended is None:
            raise Stopped(f"{step.key}: {_AGAIN} jobs in a row were lost; see {step.folder}")
        return ended.result()

    def end(self) -> None:  # noqa: B027 - nothing to do is right for a cluster
        """Jobs of a cluster go on; a resumed run finds them."""

    @property
    @abstractmethod
    def cluster(self) -> Cluster: ...

    def _in_driver(self, kind: str) -> bool:
        return False

    def _slot(self) -> AbstractContextManager[Any]:
        """Held while a job is under way."""
        return nullcontext()

    def _task(self, step: Step, stage: Callable[..., Any], args: tuple[Any, ...]) -> Task:
        return Task(step.folder, step.entry, stage, args, step.progress)

    def _submitted(self, step: Step, task: Task) -> Outcome | None:
        """Of a new job. None: it was lost, and another one may do better. Raises Stopped."""
        step.folder.mkdir(parents=True, exist_ok=True)
        outcomes.clear(step.folder)
        before = marks(step.progress)
        job = self.cluster.submit(step, task)
        step.note(job)
        ended = self._until_over(step, job)
        if isinstance(ended, Outcome):
            if ended.kind != CUT:
                return ended
            ended = State("TIMEOUT" if ended.value == TIME_LIMIT else "PREEMPTED")
        if ended.name in _GONE or (ended.name == "TIMEOUT" and marks(step.progress) != before):
            step.say(f"{step.key}: job {job} ended as {ended.name}; another one is submitted")
            return None
        raise Stopped(f"{step.key}: job {job} {self._why(step, job, ended)}")

    def _attached(self, step: Step) -> Outcome | None:
        """Of a job that an earlier process submitted; None when it has to be done again. The user knows that it was
        cancelled or failed and wants the run to go on."""
        job = str(step.submitted)
        self.cluster.attach(step, job)
        if outcomes.read(step.folder) is None:
            step.say(f"{step.key}: waiting for job {job}, which was submitted before")
        ended = self._until_over(step, job)
        if isinstance(ended, Outcome) and ended.kind not in (RAISED, CUT):
            return ended
        return None

    def _until_over(self, step: Step, job: str) -> Outcome | State:
        """The outcome, or how the job ended without one."""
        began, pause, over, told = time.monotonic(), _FIRST_LOOKS, None, dict[str, float]()
        try:
            while True:
                found = outcomes.read(_refreshed(step.folder))
                if found is not None:
                    return found
                state = self.cluster.state(job)
                if state is None or state.name not in ENDED:
                    over = None
                elif over is None:
                    over = time.monotonic()
                elif time.monotonic() - over > (_RETURN if state.name in _GONE else _SETTLE):
                    return state
                waited = time.monotonic() - began
                news = self.cluster.waiting(state, waited)
                if news and (news not in told or waited >= 2 * told[news]):  # again when the wait has doubled
                    told[news] = max(waited, _AGAIN_TOLD)
                    step.say(f"{step.key}: job {job} {news}{_outlook(state)}")
                time.sleep(pause)
                pause = min(_LOOKS, pause * 1.1)
        finally:
            self.cluster.forget(job)

    def _why(self, step: Step, job: str, ended: State) -> str:
        """What happened to a job, and what to do about it."""
        key = f"compute.resources.{step.kind}"
        log = self.cluster.log(step, job)
        said = _last_lines(log)
        if ended.name in ("TIMEOUT", "DEADLINE"):
            return f"reached its time limit; resume with {key}.minutes=…"
        if ended.name == "OUT_OF_MEMORY" or any(_MEMORY.search(line) for line in said):
            return f"ran out of memory; resume with {key}.memory_gb=… (a harness has sandbox.memory_mb)"
        if ended.name == "CANCELLED":
            return "was cancelled; resume submits it again"
        return f"ended as {ended.name} without a result: {said[-1] if said else 'it wrote nothing'} ({log})"


def _outlook(state: State | None) -> str:
    """`` (place 3 of 17, expected to start 2026-11-21T18:00:00)``"""
    if state is None or state.name != "PENDING":
        return ""
    known = [f"place {state.place}" if state.place else "", f"expected to start {state.start}" if state.start else ""]
    return f" ({', '.join(filter(None, known))})" if any(known) else ""


def _refreshed(folder: Path) -> Path:
    """A network file system remembers what was not in a folder, until the folder changes."""
    with suppress(OSError):
        folder.chmod(folder.stat().st_mode)
    return folder


def _last_lines(log: Path, most: int = 20) -> list[str]:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.strip()[:200] for line in lines if line.strip()][-most:]
