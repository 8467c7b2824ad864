"""``python -m sia_runner.doctor [--call] [group=choice ...] [key=value ...]``: would this experiment run, here and now?

One line per check: ok, FAULT with what to do, or skipped. With --call one tiny call per model is made and paid for.
Exit codes: 0 all is well · 1 faults · 2 the configuration is refused.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sia_runner.agents.protocol import ProposerError
from sia_runner.compose.for_commands import composing
from sia_runner.compute.protocol import ComputeError
from sia_runner.config import Experiment
from sia_runner.doctor import checks
from sia_runner.doctor import slurm as checks_slurm
from sia_runner.estimate.costs import hosted_roles
from sia_runner.models.protocol import BudgetSpent, ModelsError, ProviderDown
from sia_runner.rooms import RoomError, models, rooms
from sia_runner.rundir import RunDir, RunError
from sia_runner.sandbox.protocol import SandboxError
from sia_runner.tasks.protocol import TaskError

OK, FAULT, SKIPPED = "ok", "FAULT", "skipped"
_COLOURS = {OK: "green", FAULT: "bold red", SKIPPED: "dim"}
_FAULTS = (
    RunError,
    RoomError,
    ProposerError,
    ModelsError,
    ProviderDown,
    BudgetSpent,
    SandboxError,
    TaskError,
    ComputeError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    state: str
    text: str


def main() -> int:
    """Compose the experiment, print every check, and return the exit code."""
    args = sys.argv[1:]
    if "-h" in args or "--help" in args:
        print(__doc__)
        return 0
    with composing([arg for arg in args if arg != "--call"]) as (config, outcome):
        if config:
            findings = list(_print_each(examine(config, _runs_folder(args), call="--call" in args)))
            outcome.code = 1 if any(finding.state == FAULT for finding in findings) else 0
    return outcome.code


def examine(config: Experiment, runs: Path, *, call: bool) -> Iterator[Finding]:
    """Run every check in turn; `runs` is the folder that run directories will be made in."""
    summary = f"task={config.task.name} meta_agent={config.meta_agent.name} provider={config.provider.name}"
    yield Finding("configuration", OK, f"{summary} compute={config.compute.name}")
    yield _run_check("system", checks.system)
    yield _run_check("packages", lambda: checks.packages(config))
    yield _run_check("proposer", lambda: f"{rooms(config).proposer.__class__.__name__} can be built")
    yield _run_check("data", lambda: checks.data(config))
    yield _run_check("sandbox", lambda: checks.sandbox(config))
    yield _run_check("policy", lambda: checks.policy(config))
    for role in hosted_roles(config):
        yield _run_check(f"{checks.who(role)}'s key", lambda role=role: checks.key(config, role))
        yield _run_check(f"{checks.who(role)}'s price", lambda role=role: checks.price(config, role))
        yield _run_check(f"{checks.who(role)}'s model", lambda role=role: checks.model(config, role))
    yield from _gateway(config, call=call)
    yield _run_check("disk", lambda: checks.disk(config, runs))
    yield from _cluster(config)


def _cluster(config: Experiment) -> Iterator[Finding]:
    """Check the cluster; skip the details where it does not answer."""
    yield (answers := _run_check("cluster", lambda: checks_slurm.cluster(config)))
    if answers.state == OK:
        for name, check in checks_slurm.CHECKS.items():
            yield _run_check(name, lambda check=check: check(config))


def _run_check(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, OK, check())
    except checks.Skipped as reason:
        return Finding(name, SKIPPED, str(reason))
    except _FAULTS as fault:
        return Finding(name, FAULT, str(fault) or type(fault).__name__)


def _gateway(config: Experiment, *, call: bool) -> Iterator[Finding]:
    """Check the way from inside the sandbox to the gateway, and with `call` on to the models."""
    roles = hosted_roles(config)
    if not roles:
        yield Finding("gateway", SKIPPED, "no model is called")
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sia-doctor-")))
        gateway = models(config, RunDir(folder / "run"))
        if gateway is None:
            raise AssertionError("rooms.models and hosted_roles disagree")
        stack.callback(gateway.close)
        for role in roles:
            yield _run_check(
                f"{checks.who(role)}'s gateway", lambda role=role: checks.reach(config, gateway, role, folder)
            )
        for role in roles:
            yield _run_check(
                f"{checks.who(role)}'s call", lambda role=role: checks.call(gateway, role, folder, call=call)
            )


def _runs_folder(args: Sequence[str]) -> Path:
    folders = [arg.removeprefix("hydra.run.dir=") for arg in args if arg.startswith("hydra.run.dir=")]
    return Path(folders[-1]).expanduser().absolute() if folders and "${" not in folders[-1] else Path("runs").absolute()


def _print_each(findings: Iterator[Finding]) -> Iterator[Finding]:
    """Print each finding as soon as it arrives."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        colour = _COLOURS[finding.state]
        console.print(f"[{colour}]{finding.state:<8}[/]{finding.check:<20} {escape(finding.text)}")
        yield finding


if __name__ == "__main__":
    sys.exit(main())
