"""Run stages as jobs: submit, journal the id, wait, collect; after a kill of the driver, find the job again."""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.compute.inline import Inline
from sia_runner.compute.protocol import ComputeStep, JobStopped, R
from sia_runner.compute.task import (
    CUT,
    RETURNED,
    TIME_LIMIT,
    StageJob,
    StageOutcome,
    checkpoint_marks,
    outcome_file,
    read_outcome,
)
from sia_runner.store.files import last_lines

_MAX_LOST_JOBS = 10  # jobs of a step that may be lost, one after the other
_SETTLE = 5.0  # seconds that an ended job's outcome may take to be seen through a network file system
_RETURN = 15.0  # seconds until a job whose node failed may be in the queue again
_FIRST_LOOKS, _LOOKS = 0.1, 1.0  # seconds between two looks for the outcome: at first, and later
_REPEAT_NEWS = 60.0  # seconds of waiting, doubled each time, before the same news of a job is repeated
# where memory is held by sampling, SLURM calls such a job FAILED
_MEMORY = re.compile(r"exceeded (job )?memory limit|oom.kill|out of memory", re.I)
# a stage that ended in time left an outcome: no step is created any more, or it is ended, by the limit
_TIME = re.compile(r"DUE TO TIME LIMIT|Unable to create step for job \d+: Job/step already completing or completed")
LOST = "LOST"  # the cluster no longer lists it
RESUBMITTED = frozenset({LOST, "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"})  # not the stage's fault: submit again
ENDED = frozenset({"COMPLETED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "FAILED", "DEADLINE"}) | RESUBMITTED


@dataclass(frozen=True, slots=True)
class JobState:
    """The state of one job, as SLURM reports it."""

    name: str  # as SLURM calls it
    reason: str = ""  # why it does not run
    start: str = ""  # when it is expected to, as the cluster estimates; empty: unknown
    queue: str = ""  # its partition
    position: str = ""  # there, among those that wait: "3 of 17"


class Cluster(ABC):
    """A place where jobs run."""

    @abstractmethod
    def submit(self, step: ComputeStep, task: StageJob) -> str:
        """Submit a job and return its id; raise Stopped when it is refused."""

    @abstractmethod
    def state(self, job: str) -> JobState | None:
        """Return the last reported state; None before the first answer."""

    @abstractmethod
    def log(self, step: ComputeStep, job: str) -> Path:
        """Return the file with the job's standard error."""

    def attach(self, step: ComputeStep, job: str) -> None:  # noqa: B027 - a place may know its jobs by their ids
        """Follow a job of an earlier process."""

    def forget(self, job: str) -> None:  # noqa: B027 - a place may have nothing to forget
        """Stop following a job."""

    @abstractmethod
    def cancel(self, job: str) -> None:
        """End a job, without waiting for its end."""

    def waiting(self, state: JobState | None, seconds: float) -> str:
        """Explain a job's state to a user who has waited for `seconds`; empty for no news."""
        return ""

    def pause(self, job: str, seconds: float) -> None:
        """Sleep until the job is looked at again, or until its end where that is known at once."""
        time.sleep(seconds)


class RepeatedNews:
    """The lines that a wait has printed: the same one is due again when the wait has doubled."""

    def __init__(self) -> None:
        self._reported: dict[str, float] = {}

    def due(self, line: str, waited: float) -> bool:
        """Return whether to say a line after so many seconds, and then take it as said."""
        if not line or (line in self._reported and waited < 2 * self._reported[line]):
            return False
        self._reported[line] = max(waited, _REPEAT_NEWS)
        return True


class JobCompute(Inline):
    """A `protocol.Compute` whose stages are jobs of a cluster; pieces of a stage run in its process, as inline."""

    apart = True

    def __init__(self, workers: int, cluster: Cluster, slots: AbstractContextManager[Any] | None = None) -> None:
        """Run jobs on `cluster`; `slots` is entered while a job is under way."""
        super().__init__(workers)
        self.cluster = cluster
        self._slots = slots or nullcontext()

    def call(self, step: ComputeStep, stage: Callable[..., R], *args: Any) -> R:
        """Run one stage as a job and return its result; raise what it raised, or Stopped."""
        result = self._collect_earlier(step) if step.submitted else None
        if result is None and self._in_driver(step.kind):
            return super().call(step, stage, *args)
        lost = 0
        while result is None:
            if lost == _MAX_LOST_JOBS:
                raise JobStopped(f"{step.key}: {lost} jobs in a row were lost; see {step.folder}")
            with self._slots:
                result = self._run_job(step, self._task(step, stage, args))
            lost += 1
        return result.result()

    def _in_driver(self, kind: str) -> bool:
        return False

    def _task(self, step: ComputeStep, stage: Callable[..., Any], args: tuple[Any, ...]) -> StageJob:
        return StageJob(step.folder, step.entry, stage, args, step.progress)

    def _run_job(self, step: ComputeStep, task: StageJob) -> StageOutcome | None:
        """Submit a job and return its outcome; None when it was lost and another one may succeed. Raises Stopped."""
        step.folder.mkdir(parents=True, exist_ok=True)
        outcome_file(step.folder).unlink(missing_ok=True)
        before = checkpoint_marks(step.progress)
        job = self.cluster.submit(step, task)
        step.note(job)
        end = self._wait_for_end(step, job)
        if isinstance(end, StageOutcome):
            if end.kind != CUT:
                return end
            end = JobState("TIMEOUT" if end.value == TIME_LIMIT else "PREEMPTED")
        if end.name in RESUBMITTED or (end.name == "TIMEOUT" and checkpoint_marks(step.progress) != before):
            step.say(f"{step.key}: job {job} ended as {end.name}; another one is submitted")
            return None
        raise JobStopped(f"{step.key}: job {job} {self._why(step, job, end)}")

    def _collect_earlier(self, step: ComputeStep) -> StageOutcome | None:
        """Return the outcome of a job that an earlier process submitted; None, also if it failed: it runs again."""
        job = str(step.submitted)
        self.cluster.attach(step, job)
        if read_outcome(step.folder) is None:
            step.say(f"{step.key}: waiting for job {job}, which was submitted before")
        end = self._wait_for_end(step, job)
        return end if isinstance(end, StageOutcome) and end.kind == RETURNED else None

    def _wait_for_end(self, step: ComputeStep, job: str) -> StageOutcome | JobState:
        """Wait for the outcome; return the final state of a job that left none."""
        began, pause, over, reported = time.monotonic(), _FIRST_LOOKS, None, RepeatedNews()
        try:
            while True:
                with suppress(OSError):  # a network file system remembers what was not in a folder, until that changes
                    step.folder.chmod(step.folder.stat().st_mode)
                outcome = read_outcome(step.folder)
                if outcome is not None:
                    return outcome
                state = self.cluster.state(job)
                if state is None or state.name not in ENDED:
                    over = None
                elif over is None:
                    over = time.monotonic()
                elif time.monotonic() - over > (_RETURN if state.name in RESUBMITTED else _SETTLE):
                    return state
                waited = time.monotonic() - began
                news = self.cluster.waiting(state, waited)
                if reported.due(news, waited):
                    step.say(f"{step.key}: job {job} {news}{_queue_note(state) if state else ''}")
                self.cluster.pause(job, pause)
                pause = min(_LOOKS, pause * 1.1)
        finally:
            self.cluster.forget(job)

    def _why(self, step: ComputeStep, job: str, state: JobState) -> str:
        key, log = f"compute.resources.{step.kind}", self.cluster.log(step, job)
        lines = last_lines(log)
        if state.name in ("TIMEOUT", "DEADLINE") or any(_TIME.search(line) for line in lines):
            return f"reached its time limit; resume with {key}.minutes=…"
        if state.name == "OUT_OF_MEMORY" or any(_MEMORY.search(line) for line in lines):
            return f"ran out of memory; resume with {key}.memory_gb=… (a harness has sandbox.memory_mb)"
        if state.name == "CANCELLED":
            return "was cancelled; resume submits it again"
        return f"ended as {state.name} without a result: {telling_line(lines)[:200]} ({log})"


def _queue_note(state: JobState) -> str:
    """Return `` (place 3 of 17, expected to start 2026-11-21T18:00:00)`` for a pending job."""
    facts = [f"place {state.position}"] if state.position else []
    facts += [f"expected to start {state.start}"] if state.start else []
    return f" ({', '.join(facts)})" if facts and state.name == "PENDING" else ""


def telling_line(lines: list[str]) -> str:
    """Return the last line that is not SLURM's own: srun ends with the exit code of what it ran."""
    own = [line for line in lines if not line.startswith(("srun: ", "slurmstepd: "))]
    return (own or lines or ["it wrote nothing"])[-1]
