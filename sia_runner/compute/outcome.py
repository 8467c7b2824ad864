"""The outcome of a stage in its job: a file in the step's folder, written once.

Only this file decides. The cluster may start a job twice, and the driver may have been away; a process that finds the
outcome of a stage that returned does not run the stage again.
"""

import os
import pickle
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

RETURNED: Literal["returned"] = "returned"
RAISED: Literal["raised"] = "raised"
CUT: Literal["cut"] = "cut"  # by the cluster, for the reason in `value`


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result or the exception of a stage, or the reason why the cluster cut it."""

    kind: Literal["returned", "raised", "cut"]
    value: Any  # the result, a frozen exception, or why the stage was cut

    def result(self) -> Any:
        """Return the stage's result, or raise what the stage raised, as it was."""
        if self.kind == RAISED:
            raise thawed(self.value)
        return self.value


def outcome_file(folder: Path) -> Path:
    """Return the path of the outcome in a step's folder."""
    return folder / "outcome.pkl"


def write(folder: Path, outcome: Outcome) -> None:
    """Write an outcome atomically: a reader sees nothing or all of it, on another node too."""
    path = outcome_file(folder)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as stream:
        pickle.dump(outcome, stream)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)


def read(folder: Path) -> Outcome | None:
    """Return the outcome; None while there is none."""
    try:
        raw = outcome_file(folder).read_bytes()
    except FileNotFoundError:
        return None
    return pickle.loads(raw)  # noqa: S301 - our own file: no sandbox can write in this folder


def clear(folder: Path) -> None:
    """Remove the outcome, if there is one."""
    outcome_file(folder).unlink(missing_ok=True)


def raised(error: BaseException) -> Outcome:
    """Return an outcome of an exception that can be pickled, whatever its constructor takes."""
    text = "".join(traceback.format_exception(error))
    args = error.__reduce__()[1] if isinstance(error, OSError) else error.args  # with the file's name
    frozen = (type(error), args, dict(error.__dict__), text)
    try:
        pickle.loads(pickle.dumps(frozen))  # noqa: S301 - what we just wrote
    except Exception:  # noqa: BLE001 - whatever hinders pickling: its text is what is left
        frozen = (RuntimeError, (f"{type(error).__name__}: {error}",), {}, text)
    return Outcome(RAISED, frozen)


def thawed(frozen: tuple[type[BaseException], tuple[Any, ...], dict[str, Any], str]) -> BaseException:
    """Rebuild the exception of a stage, with its traceback in the job as a note."""
    kind, args, state, text = frozen
    error = kind.__new__(kind, *args)
    if not isinstance(error, OSError):
        error.args = args
    error.__dict__.update(state)
    error.add_note(f"in the job:\n{text}")
    return error
