"""Every exception that refuses a run becomes one line on stderr and exit code 2.

It stays apart from `composition` and imports that only when something was refused, so that commands start fast."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

EXIT_REFUSED = 2


@dataclass(slots=True)
class CommandOutcome:
    """The exit code of a command, and the lines of its refusal."""

    code: int = EXIT_REFUSED
    lines: list[str] = field(default_factory=list)  # printed to stderr


@contextmanager
def print_refusals(composed: Mapping[str, Any] | Any = None) -> Iterator[CommandOutcome]:
    """Print refusals, as in ``with refusals(config) as outcome: outcome.code = ...``; after a refusal the code is 2."""
    from pydantic import ValidationError

    from sia_runner.config.composition import explain_validation_error
    from sia_runner.errors import RunnerError

    outcome = CommandOutcome()
    try:
        yield outcome
    except ValidationError as error:
        _print_refusal(outcome, *explain_validation_error(error, composed or {}))
    except RunnerError as error:
        _print_refusal(outcome, str(error))


def _print_refusal(outcome: CommandOutcome, *lines: str) -> None:
    outcome.lines += lines
    for line in lines:
        print(f"refused: {line}", file=sys.stderr)
