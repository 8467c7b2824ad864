"""How a stage ended in its job: a file in the step's folder, there or not there, written once.

It is what counts. Jobs may be started twice by the cluster, and the driver may have been away; whoever finds an outcome
of a stage that returned does not carry it out again.
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
    kind: Literal["returned", "raised", "cut"]
    value: Any  # the result, a frozen exception, or why the stage was cut

    def result(self) -> Any:
        """The stage's result. Raises what the stage raised, as it was."""
        if self.kind == RAISED:
            raise thawed(self.value)
        return self.value


def outcome_file(folder: Path) -> Path:
    return folder / "outcome.pkl"


def write(folder: Path, outcome: Outcome) -> None:
    """Atomic: a reader sees nothing or all of it, on another node too."""
    path = outcome_file(folder)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as stream:
        pickle.dump(outcome, stream)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)


def read(folder: Path) -> Outcome | None:
    """None while there is none."""
    try:
        raw = outcome_file(folder).read_bytes()
    except FileNotFoundError:
        return None
    return pickle.loads(raw)  # noqa: S301 - our own file: no sandbox can write in this folder


def clear(folder: Path) -> None:
    outcome_file(folder).unlink(missing_ok=True)


def raised(error: BaseException) -> Outcome:
    """An exception that can be pickled, whatever its constructor takes."""
    said = "".join(traceback.format_exception(error))
    args = error.__reduce__()[1] if isinstance(error, OSError) else error.args  # with the file's name
    frozen = (type(error), args, dict(error.__dict__), said)
    try:
        pickle.loads(pickle.dumps(frozen))  # noqa: S301 - what we just wrote
    except Exception:  # noqa: BLE001 - whatever hinders pickling: its text is what is left
        frozen = (RuntimeError, (f"{type(error).__name__}: {error}",), {}, said)
    return Outcome(RAISED, frozen)


def thawed(frozen: tuple[type[BaseException], tuple[Any, ...], dict[str, Any], str]) -> BaseException:
    kind, args, state, said = frozen
    error = kind.__new__(kind, *args)
    if not isinstance(error, OSError):
        error.args = args
    error.__dict__.update(state)
    error.add_note(f"in the job:\n{said}")
    return error
