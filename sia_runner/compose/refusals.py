"""Every exception that refuses a run becomes one line on stderr and exit code 2."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

REFUSED = 2


@dataclass(slots=True)
class Outcome:
    """The exit code of a command, and the lines of its refusal."""

    code: int = REFUSED
    lines: list[str] = field(default_factory=list)  # printed to stderr


@contextmanager
def refusals(composed: Mapping[str, Any] | Any = None) -> Iterator[Outcome]:
    """Print refusals, as in ``with refusals(config) as outcome: outcome.code = ...``; after a refusal the code is 2."""
    from pydantic import ValidationError

    from sia_runner.agents.protocol import ProposerError
    from sia_runner.compose.problems import explain
    from sia_runner.compute.protocol import ComputeError
    from sia_runner.models.protocol import ModelsError
    from sia_runner.rooms import RoomError
    from sia_runner.rundir import RunError
    from sia_runner.sandbox.protocol import SandboxError
    from sia_runner.tasks.protocol import TaskError

    outcome = Outcome()
    try:
        yield outcome
    except ValidationError as error:
        _say(outcome, *explain(error, composed or {}))
    except (RunError, RoomError, ProposerError, ModelsError, SandboxError, TaskError, ComputeError) as error:
        _say(outcome, str(error))


def _say(outcome: Outcome, *lines: str) -> None:
    outcome.lines += lines
    for line in lines:
        print(f"refused: {line}", file=sys.stderr)
