"""Run a stage in its job: never two at once, to one outcome, whatever the cluster sends meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.compute.outcome import CUT, RETURNED, Outcome, raised, read, write
from sia_runner.ground.lease import Held, Lease

TIME_LIMIT, PREEMPTED = "time limit", "preempted"
_EARLY = 75.0  # seconds: SLURM may signal so much before it was asked to


class _Cut(BaseException):
    """A signal of the cluster that this job must leave; no stage handles it, because it is no Exception."""


class _Terminated(BaseException):
    """A signal from outside that ends the job; the cluster knows the reason."""


@dataclass
class Task:
    """One stage for a job, pickled by reference: the stage builds what it needs where it runs."""

    folder: Path
    entry: Callable[..., Any]
    stage: Callable[..., Any]
    args: tuple[Any, ...]
    progress: Path | None = None
    seconds: float | None = None  # time limit
    warning: float = 0.0  # how long before it USR2 is sent
    environment: Mapping[str, str | None] | None = None  # variables that the way here changed

    def __call__(self) -> None:
        """Run the stage, in the job, and write its outcome.

        There is none where the cluster will start the job again or knows the reason better itself.
        """
        began, before = time.monotonic(), marks(self.progress)
        self._restore()
        signal.signal(signal.SIGTERM, _terminated)
        signal.signal(signal.SIGUSR2, lambda *_: self._cut(began, before))
        try:
            self._run_once()
        except _Cut as cut:
            if cut.args[0] == TIME_LIMIT or not _requeued():
                write(self.folder, Outcome(CUT, cut.args[0]))
            _leave(f"cut: {cut.args[0]}")
        except _Terminated:
            _leave("terminated")

    def _run_once(self) -> None:
        """Run the stage unless an earlier start of this job, or one that was thought lost, has finished it."""
        with _exclusive(self.folder):
            earlier = read(self.folder)
            if earlier is not None and earlier.kind == RETURNED:
                return
            try:
                outcome = Outcome(RETURNED, self.entry(self.stage, *self.args))
            except (_Cut, _Terminated):
                raise
            except BaseException as error:  # noqa: BLE001 - Interrupted too: the driver decides what it means
                outcome = raised(error)
            write(self.folder, outcome)

    def _cut(self, began: float, before: object) -> None:
        """Handle USR2: the time limit comes near, or the job is preempted."""
        _ignore_more()
        remaining = None if self.seconds is None else self.seconds - (time.monotonic() - began)
        near = remaining is not None and remaining < self.warning + _EARLY
        raise _Cut(TIME_LIMIT if near and marks(self.progress) == before else PREEMPTED)

    def _restore(self) -> None:
        for name, value in (self.environment or {}).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def marks(progress: Path | None) -> object:
    """Return a value that changes when the stage writes another checkpoint.

    A stage that writes checkpoints resumes there, so that it may be started again as often as it takes.
    """
    if progress is None:
        return None
    return sorted(path.name for path in progress.glob("*")) if progress.is_dir() else []


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Wait until no other start of the same step is alive."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(Lease(folder))
                break
            except Held:
                time.sleep(1.0)
        yield


def _terminated(*_: object) -> None:
    _ignore_more()
    raise _Terminated


def _ignore_more() -> None:
    """Ignore further signals: the job leaves already.

    A requeue terminates the very step that asked for it; `scontrol` inherits this and can end before it is killed.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _requeued() -> bool:
    """Ask SLURM to start this job again; return False where it does not."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    try:
        return subprocess.run(["scontrol", "requeue", job], check=False, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _leave(why: str) -> None:
    """Exit at once: threads may still wait for their sandboxes, which end with this process."""
    print(f"job left: {why}", file=sys.stderr, flush=True)
    os._exit(1)
