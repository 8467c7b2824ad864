"""The command `doctor` checks whether an experiment would run, here and now."""

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from sia_runner.commands import doctor_checks
from sia_runner.commands.checks import OK, SKIPPED, CheckResult, print_results, run_check
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
    yield run_check("system", doctor_checks.check_system)
    yield run_check("packages", lambda: doctor_checks.check_packages(config))
    yield run_check("proposer", lambda: f"{components.proposer.__class__.__name__} can be built")
    yield run_check("data", lambda: doctor_checks.check_task_data(components))
    yield run_check("sandbox", lambda: doctor_checks.check_sandbox(components))
    yield run_check("policy", lambda: doctor_checks.check_policy_backend(config))
    for role, hosted in hosted_roles(config).items():
        yield run_check(f"{role_name(role)}'s key", partial(doctor_checks.check_key, hosted))
        yield run_check(f"{role_name(role)}'s price", partial(doctor_checks.check_model_price, hosted, config.budget))
        yield run_check(f"{role_name(role)}'s model", partial(doctor_checks.check_model, hosted))
    yield from _gateway_checks(config, call=call)
    yield run_check("disk", lambda: doctor_checks.check_disk(config, runs))
    yield (cluster := run_check("cluster", lambda: doctor_checks.check_cluster(config)))
    if cluster.state == OK:
        for name, check in doctor_checks.CLUSTER_CHECKS.items():
            yield run_check(name, partial(check, config))


def _gateway_checks(config: Experiment, *, call: bool) -> Iterator[CheckResult]:
    """Check the way from inside the sandbox to the gateway, and with `call` on to the models."""
    roles = hosted_roles(config)
    if not roles:
        yield CheckResult("gateway", SKIPPED, "no model is called")
        return
    with tempfile.TemporaryDirectory(prefix="sia-doctor-") as path:
        folder = Path(path)
        context = RunContext(config, RunDir(folder / "run"))
        gateway = context.gateway
        if gateway is None:
            raise AssertionError("the gateway and hosted_roles disagree")
        try:
            for role in roles:
                check = partial(doctor_checks.check_gateway, context, gateway, role, folder)
                yield run_check(f"{role_name(role)}'s gateway", check)
            for role in roles:
                check = partial(doctor_checks.check_call, context, gateway, role, folder, call=call)
                yield run_check(f"{role_name(role)}'s call", check)
        finally:
            context.close_gateway()


def _runs_folder(args: Sequence[str]) -> Path:
    folders = [arg.removeprefix("hydra.run.dir=") for arg in args if arg.startswith("hydra.run.dir=")]
    return Path(folders[-1]).expanduser().absolute() if folders and "${" not in folders[-1] else Path("runs").absolute()
