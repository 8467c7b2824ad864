"""The command `doctor` checks whether an experiment would run, here and now."""

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from sia_runner.commands import doctor_checks
from sia_runner.commands.checks import FAULT, FAULTS, OK, SKIPPED, CheckResult, print_results, result_of_fault
from sia_runner.config.composition import composed_experiment
from sia_runner.config.experiment import Experiment
from sia_runner.experiment.context import Components, RunContext
from sia_runner.experiment.costs import hosted_roles, role_name
from sia_runner.store.run_directory import RunDir


def main(options: Namespace) -> int:
    """Compose the experiment, print every check, and return the exit code."""
    with composed_experiment(options.overrides) as (config, outcome):
        if config:
            outcome.code = print_results(run_checks(config, _runs_folder(options.overrides), call=options.call))
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
        for name, check in doctor_checks.MODEL_CHECKS.items():
            yield _run_check(f"{role_name(role)}'s {name}", lambda check=check, role=role: check(config, role))
    yield from _gateway_checks(config, call=call)
    yield _run_check("disk", lambda: doctor_checks.check_disk(config, runs))
    yield from _cluster_checks(config)


def _cluster_checks(config: Experiment) -> Iterator[CheckResult]:
    """Check the cluster; skip the details where it does not answer."""
    yield (answers := _run_check("cluster", lambda: doctor_checks.check_cluster(config)))
    if answers.state == OK:
        for name, check in doctor_checks.CLUSTER_CHECKS.items():
            yield _run_check(name, lambda check=check: check(config))


def _run_check(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, OK, check())
    except doctor_checks.CheckSkipped as reason:
        return CheckResult(name, SKIPPED, str(reason))
    except FAULTS as fault:
        return result_of_fault(name, FAULT, fault)


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
                f"{role_name(role)}'s gateway",
                lambda role=role: doctor_checks.check_gateway(context, gateway, role, folder),
            )
        for role in roles:
            yield _run_check(
                f"{role_name(role)}'s call",
                lambda role=role: doctor_checks.check_call(gateway, role, folder, call=call),
            )


def _runs_folder(args: Sequence[str]) -> Path:
    folders = [arg.removeprefix("hydra.run.dir=") for arg in args if arg.startswith("hydra.run.dir=")]
    return Path(folders[-1]).expanduser().absolute() if folders and "${" not in folders[-1] else Path("runs").absolute()
