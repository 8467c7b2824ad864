"""Every exception that refuses a run becomes one line on stderr and exit code 2.

It stays apart from `composition` and imports that only when something was refused, so that commands start fast.
"""

import difflib
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sia_runner.errors import RunnerError

EXIT_REFUSED = 2


@dataclass(slots=True)
class CommandOutcome:
    """The exit code of a command, and the lines of its refusal."""

    code: int = EXIT_REFUSED
    lines: list[str] = field(default_factory=list[str])  # printed to stderr


@contextmanager
def print_refusals(composed: Mapping[str, Any] | None = None, name: str = "") -> Generator[CommandOutcome]:
    """Yield an outcome whose code the command sets; a refusal inside is printed (of `name`), and the code is then 2."""
    outcome = CommandOutcome()
    try:
        yield outcome
    except RunnerError as error:
        outcome.lines.append(str(error))
    except ValueError as error:
        from pydantic import ValidationError

        from sia_runner.config.composition import explain_validation_error

        if not isinstance(error, ValidationError):
            raise
        outcome.lines += explain_validation_error(error, composed or {})
    for line in outcome.lines:
        print(f"refused: {name}: {line}" if name else f"refused: {line}", file=sys.stderr)


def nearest_choice(name: str, choices: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?; allowed: …``, as far as there are such choices."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    allowed = f"; allowed: {', '.join(choices[:40])}" if choices else ""
    return (f"; did you mean {close[0]!r}?" if close else "") + allowed
