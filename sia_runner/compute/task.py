"""Run a stage in its job: never two at once, to one outcome, whatever the cluster sends meanwhile.

Only the outcome decides, a file in the step's folder that is written once: a process that finds that of a stage that
returned does not run the stage again.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sia_runner.store.lease import LeaseHeldError, RunLease
from sia_runner.store.run_directory import write_bytes

RETURNED: Literal["returned"] = "returned"
RAISED: Literal["raised"] = "raised"
CUT: Literal["cut"] = "cut"  # by the cluster, for the reason in `value`


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """The result or the exception of a stage, or the reason why the cluster cut it."""

    kind: Literal["returned", "raised", "cut"]
    value: Any  # the result, a frozen exception, or why the stage was cut

    def result(self) -> Any:
        """Return the stage's result, or raise what the stage raised, with its traceback in the job as a note."""
        if self.kind != RAISED:
            return self.value
        kind, args, state, text = self.value
        error = kind.__new__(kind, *args)
        if not isinstance(error, OSError):
            error.args = args
        error.__dict__.update(state)
        error.add_note(f"in the job:\n{text}")
        raise error


def outcome_file(folder: Path) -> Path:
    """Return the path of the outcome in a step's folder."""
    return folder / "outcome.pkl"


def write_outcome(folder: Path, outcome: StageOutcome) -> None:
    """Write an outcome atomically: a reader sees nothing or all of it, on another node too."""
    write_bytes(outcome_file(folder), pickle.dumps(outcome))


def read_outcome(folder: Path) -> StageOutcome | None:
    """Return the outcome; None while there is none."""
    try:
        raw = outcome_file(folder).read_bytes()
        return pickle.loads(raw)  # noqa: S301 - our own file: no sandbox can write in this folder
    except (FileNotFoundError, ImportError, AttributeError):  # or one of a version whose classes had other names
        return None


def error_outcome(error: BaseException) -> StageOutcome:
    """Return an outcome of an exception that can be pickled, whatever its constructor takes."""
    text = "".join(traceback.format_exception(error))
    args = error.__reduce__()[1] if isinstance(error, OSError) else error.args  # with the file's name
    frozen = (type(error), args, dict(error.__dict__), text)
    try:
        pickle.loads(pickle.dumps(frozen))  # noqa: S301 - what we just wrote
    except Exception:  # noqa: BLE001 - whatever hinders pickling: its text is what is left
        frozen = (RuntimeError, (f"{type(error).__name__}: {error}",), {}, text)
    return StageOutcome(RAISED, frozen)


TIME_LIMIT, PREEMPTED = "time limit", "preempted"
_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)  # from outside, and of the cluster before it ends a job
_EARLY = 75.0  # seconds: SLURM may signal so much before it was asked to


class _Signalled(BaseException):
    """A signal that this job must leave, with the reason; no stage handles it, because it is no Exception."""


@dataclass
class StageJob:
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
        """Run the stage and write its outcome, unless the cluster starts the job again or knows the reason itself."""
        began, before = time.monotonic(), checkpoint_marks(self.progress)
        for name, value in (self.environment or {}).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

        def leave(number: int, _frame: object) -> None:
            # a requeue terminates the very step that asked for it; `scontrol` inherits this and can end before
            for further in _SIGNALS:
                signal.signal(further, signal.SIG_IGN)
            if number == signal.SIGTERM:
                raise _Signalled("")
            remaining = float("inf") if self.seconds is None else self.seconds - (time.monotonic() - began)
            near = remaining < self.warning + _EARLY
            raise _Signalled(TIME_LIMIT if near and checkpoint_marks(self.progress) == before else PREEMPTED)

        earlier = {number: signal.signal(number, leave) for number in _SIGNALS}
        try:
            self._run_once()
            for number, handler in earlier.items():  # a worker goes on
                signal.signal(number, handler)
        except _Signalled as signalled:
            why = signalled.args[0]  # empty for a signal from outside: the cluster knows the reason
            if why and (why == TIME_LIMIT or not _requeued()):
                write_outcome(self.folder, StageOutcome(CUT, why))
            print("job left:", f"cut: {why}" if why else "terminated", file=sys.stderr, flush=True)
            os._exit(1)  # at once: threads may still wait for their sandboxes, which end with this process

    def _run_once(self) -> None:
        """Run the stage unless an earlier start of this job, or one that was thought lost, has finished it."""
        with ExitStack() as stack:
            while True:  # until no other start of the same step is alive
                try:
                    stack.enter_context(RunLease(self.folder))
                    break
                except LeaseHeldError:
                    time.sleep(1.0)
            earlier = read_outcome(self.folder)
            if earlier is not None and earlier.kind == RETURNED:
                return
            try:
                write_outcome(self.folder, StageOutcome(RETURNED, self.entry(self.stage, *self.args)))
            except _Signalled:
                raise
            except BaseException as error:  # noqa: BLE001 - Interrupted too: the driver decides what it means
                write_outcome(self.folder, error_outcome(error))


def checkpoint_marks(progress: Path | None) -> object:
    """Return a value that changes when the stage writes another checkpoint, from which it can be resumed."""
    return progress and sorted(path.name for path in progress.glob("*"))


def _requeued() -> bool:
    try:
        command = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
        return subprocess.run(command, check=False, timeout=30).returncode == 0
    except (KeyError, OSError, subprocess.TimeoutExpired):  # no job of SLURM, or no answer
        return False
