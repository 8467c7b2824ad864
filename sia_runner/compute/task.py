"""A stage as it runs in a job: never two at once, to one outcome, whatever the cluster sends meanwhile."""

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
    """The cluster wants this job to leave. No stage handles it: it is no Exception."""


class _Terminated(BaseException):
    """The job is being ended from outside; why, the cluster knows."""


@dataclass
class Task:
    """Pickled by reference: what the stage needs is built where it runs."""

    folder: Path
    entry: Callable[..., Any]
    stage: Callable[..., Any]
    args: tuple[Any, ...]
    progress: Path | None = None
    seconds: float | None = None  # time limit
    warning: float = 0.0  # how long before it USR2 is sent
    environment: Mapping[str, str | None] | None = None  # variables that the way here changed

    def __call__(self) -> None:
        """In the job. Leaves an outcome, except where the cluster will start the job again or knows best itself."""
        began, before = time.monotonic(), marks(self.progress)
        self._restore()
        signal.signal(signal.SIGTERM, _terminated)
        signal.signal(signal.SIGUSR2, lambda *_: self._told(began, before))
        try:
            self._once()
        except _Cut as cut:
            if cut.args[0] == TIME_LIMIT or not _requeued():
                write(self.folder, Outcome(CUT, cut.args[0]))
            _leave(f"cut: {cut.args[0]}")
        except _Terminated:
            _leave("terminated")

    def _once(self) -> None:
        """An earlier start of this job, or one that was thought lost, may be at work or have finished."""
        with _turn(self.folder):
            found = read(self.folder)
            if found is not None and found.kind == RETURNED:
                return
            try:
                outcome = Outcome(RETURNED, self.entry(self.stage, *self.args))
            except (_Cut, _Terminated):
                raise
            except BaseException as error:  # noqa: BLE001 - Interrupted too: the driver decides what it means
                outcome = raised(error)
            write(self.folder, outcome)

    def _told(self, began: float, before: object) -> None:
        """USR2: the time limit comes near, or somebody more important needs the node."""
        _ignore_more()
        left = None if self.seconds is None else self.seconds - (time.monotonic() - began)
        near = left is not None and left < self.warning + _EARLY
        raise _Cut(TIME_LIMIT if near and marks(self.progress) == before else PREEMPTED)

    def _restore(self) -> None:
        for name, value in (self.environment or {}).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def marks(progress: Path | None) -> object:
    """Changes when the stage leaves another checkpoint: a stage that does goes on where it was, so that it may be
    started again as often as it takes."""
    if progress is None:
        return None
    return sorted(path.name for path in progress.glob("*")) if progress.is_dir() else []


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other start of the same step is alive."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(Lease(folder))
                break
            except Held:
                time.sleep(1.0)
        yield


def _terminated(*_: object) -> None:
    _ignore_more()
    raise _Terminated


def _ignore_more() -> None:
    """The job leaves already. A requeue terminates the very step that asked for it; `scontrol` inherits this and can
    end before it is killed."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _requeued() -> bool:
    """Ask SLURM to start this job again; False where it does not."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    try:
        return subprocess.run(["scontrol", "requeue", job], check=False, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _leave(why: str) -> None:
    """At once: threads may still wait for their sandboxes; these end with this process."""
    print(f"job left: {why}", file=sys.stderr, flush=True)
    os._exit(1)
