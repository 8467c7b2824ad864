"""``python -m sia_runner doctor [--call] [group=choice ...] [key=value ...]``: would this experiment run, here and now?

One line per check: ok, FAULT with what to do, or skipped. With --call one tiny call per model is made and paid for.
Exit codes: 0 all is well · 1 faults · 2 the configuration is refused."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sia_runner.commands import doctor_checks
from sia_runner.commands import doctor_checks as checks_slurm
from sia_runner.commands.cost_forecast import hosted_roles
from sia_runner.compute.protocol import ComputeError
from sia_runner.config.base import ComponentError
from sia_runner.config.composition import composed_experiment
from sia_runner.config.experiment import Experiment
from sia_runner.experiment.context import Components, RunContext
from sia_runner.proposers.protocol import ProposerError
from sia_runner.sandbox.protocol import SandboxError
from sia_runner.store.run_directory import RunDir, RunDirectoryError
from sia_runner.tasks.protocol import TaskError
from sia_runner.wire.grants import BudgetSpent, ModelsError, ProviderDown

OK, FAULT, SKIPPED = "ok", "FAULT", "skipped"
_COLOURS = {OK: "green", FAULT: "bold red", SKIPPED: "dim"}
_FAULTS = (
    RunDirectoryError,
    ComponentError,
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
class CheckResult:
    """The result of one check."""

    check: str
    state: str
    text: str


def main(args: Sequence[str]) -> int:
    """Compose the experiment, print every check, and return the exit code."""
    if "-h" in args or "--help" in args:
        print(__doc__)
        return 0
    with composed_experiment([arg for arg in args if arg != "--call"]) as (config, outcome):
        if config:
            findings = list(_print_each(run_checks(config, _runs_folder(args), call="--call" in args)))
            outcome.code = 1 if any(finding.state == FAULT for finding in findings) else 0
    return outcome.code


def run_checks(config: Experiment, runs: Path, *, call: bool) -> Iterator[CheckResult]:
    """Run every check in turn; `runs` is the folder that run directories will be made in."""
    summary = f"task={config.task.name} meta_agent={config.meta_agent.name} provider={config.provider.name}"
    yield CheckResult("configuration", OK, f"{summary} compute={config.compute.name}")
    components = Components(config)
    yield _run_check("system", doctor_checks.check_system)
    yield _run_check("packages", lambda: doctor_checks.check_packages(config))
    yield _run_check("proposer", lambda: f"{components.proposer.__class__.__name__} can be built")
    yield _run_check("data", lambda: doctor_checks.check_task_data(components))
    yield _run_check("sandbox", lambda: doctor_checks.check_sandbox(components))
    yield _run_check("policy", lambda: doctor_checks.check_policy_backend(config))
    for role in hosted_roles(config):
        yield _run_check(
            f"{doctor_checks.role_name(role)}'s key", lambda role=role: doctor_checks.check_key(config, role)
        )
        yield _run_check(
            f"{doctor_checks.role_name(role)}'s price", lambda role=role: doctor_checks.check_model_price(config, role)
        )
        yield _run_check(
            f"{doctor_checks.role_name(role)}'s model", lambda role=role: doctor_checks.check_model(config, role)
        )
    yield from _gateway_checks(config, call=call)
    yield _run_check("disk", lambda: doctor_checks.check_disk(config, runs))
    yield from _cluster_checks(config)


def _cluster_checks(config: Experiment) -> Iterator[CheckResult]:
    """Check the cluster; skip the details where it does not answer."""
    yield (answers := _run_check("cluster", lambda: checks_slurm.check_cluster(config)))
    if answers.state == OK:
        for name, check in checks_slurm.CLUSTER_CHECKS.items():
            yield _run_check(name, lambda check=check: check(config))


def _run_check(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, OK, check())
    except doctor_checks.CheckSkipped as reason:
        return CheckResult(name, SKIPPED, str(reason))
    except _FAULTS as fault:
        return CheckResult(name, FAULT, str(fault) or type(fault).__name__)


def _gateway_checks(config: Experiment, *, call: bool) -> Iterator[CheckResult]:
    """Check the way from inside the sandbox to the gateway, and with `call` on to the models."""
    roles = hosted_roles(config)
    if not roles:
        yield CheckResult("gateway", SKIPPED, "no model is called")
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sia-doctor-")))
        context = RunContext(config, RunDir(folder / "run"))
        gateway = context.gateway
        if gateway is None:
            raise AssertionError("the gateway and hosted_roles disagree")
        stack.callback(context.close_gateway)
        for role in roles:
            yield _run_check(
                f"{doctor_checks.role_name(role)}'s gateway",
                lambda role=role: doctor_checks.check_gateway(context, gateway, role, folder),
            )
        for role in roles:
            yield _run_check(
                f"{doctor_checks.role_name(role)}'s call",
                lambda role=role: doctor_checks.check_call(gateway, role, folder, call=call),
            )


def _runs_folder(args: Sequence[str]) -> Path:
    folders = [arg.removeprefix("hydra.run.dir=") for arg in args if arg.startswith("hydra.run.dir=")]
    return Path(folders[-1]).expanduser().absolute() if folders and "${" not in folders[-1] else Path("runs").absolute()


def _print_each(findings: Iterator[CheckResult]) -> Iterator[CheckResult]:
    """Print each finding as soon as it arrives."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        colour = _COLOURS[finding.state]
        console.print(f"[{colour}]{finding.state:<8}[/]{finding.check:<20} {escape(finding.text)}")
        yield finding
