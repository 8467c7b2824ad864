"""The lines of `doctor` and `prefetch`: one for each thing, printed as soon as it is known."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVarTuple

from rich.console import Console
from rich.markup import escape

from sia_runner.errors import RunnerError
from sia_runner.wire.grants import BudgetSpent, ProviderDown

OK, FAULT, SKIPPED = "ok", "FAULT", "skipped"  # the states of a check of `doctor`
FETCHED, THERE, MISSING, NETWORK = "fetched", "there", "MISSING", "network"  # those of a thing of `prefetch`
Arguments = TypeVarTuple("Arguments")
_COLOURS = {FAULT: "bold red", MISSING: "bold red", SKIPPED: "dim", NETWORK: "dim"}


class CheckSkipped(Exception):
    """Raised where there is nothing to check; the message says why."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result for one thing: its name, its state, and a text for the user."""

    name: str
    state: str
    text: str


def run_check(
    name: str, check: Callable[[*Arguments], str | tuple[str, str]], *args: *Arguments, fault_state: str = FAULT
) -> CheckResult:
    """Return the result of a check, which returns a text, or its state and a text, or raises what says what to do."""
    try:
        result = check(*args)
    except CheckSkipped as reason:
        return CheckResult(name, SKIPPED, str(reason))
    except (RunnerError, ProviderDown, BudgetSpent, OSError) as fault:
        return CheckResult(name, fault_state, str(fault) or type(fault).__name__)
    return CheckResult(name, OK, result) if isinstance(result, str) else CheckResult(name, *result)


def print_results(results: Iterable[CheckResult]) -> int:
    """Print each result as soon as it arrives; return the exit code: 1 if something is wrong or missing."""
    console = Console(highlight=False, soft_wrap=True)
    code = 0
    for result in results:
        colour = _COLOURS.get(result.state, "green")
        console.print(f"[{colour}]{result.state:<8}[/]{result.name:<20} {escape(result.text)}")
        code = code or int(result.state in (FAULT, MISSING))
    return code
