"""The command `doctor` checks whether an experiment would run, here and now."""

import importlib.util
import platform
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from sia_runner.commands.checks import OK, SKIPPED, CheckResult, CheckSkipped, print_results, run_check
from sia_runner.commands.cluster_checks import CLUSTER_CHECKS, check_cluster
from sia_runner.commands.estimate import measure_task
from sia_runner.config.components import HostedProvider, SlurmComputeConfig
from sia_runner.config.composition import composed_experiment
from sia_runner.config.experiment import BudgetConfig, Experiment
from sia_runner.experiment import verifier_sandbox
from sia_runner.experiment.context import Components, RunContext
from sia_runner.experiment.costs import (
    called_models,
    hosted_roles,
    policy_price,
    price_text,
    role_name,
    trains_at_service,
    update_line,
)
from sia_runner.experiment.execution import describe_failure
from sia_runner.experiment.resources import fit_lines
from sia_runner.experiment.runner import check_custom_classes
from sia_runner.experiment.weights.update import check_adapters
from sia_runner.gateway import service
from sia_runner.gateway.prices import price_of
from sia_runner.policy.backend import check_policy, tinker_client
from sia_runner.sandbox.protocol import SandboxError, SandboxJob
from sia_runner.store.run_directory import RunDir, RunDirectoryError
from sia_runner.system import cache_dir
from sia_runner.wire.grants import Grant, Role
from sia_runner.wire.policy import PolicyError
from sia_runner.wire.providers import EndpointProbe, key_of


def main(options: Namespace) -> int:
    """Compose the experiment, print every check, and return the exit code."""
    with composed_experiment(options.overrides) as (config, outcome):
        if config:
            outcome.code = print_results(run_checks(config, _runs_folder(options.overrides), call=options.call))
    return outcome.code


def _runs_folder(args: Sequence[str]) -> Path:
    folders = [arg.removeprefix("hydra.run.dir=") for arg in args if arg.startswith("hydra.run.dir=")]
    return Path(folders[-1]).expanduser().absolute() if folders and "${" not in folders[-1] else Path("runs").absolute()


def run_checks(config: Experiment, runs: Path, *, call: bool) -> Iterator[CheckResult]:
    """Run every check in turn; `runs` is the folder that run directories will be made in."""
    summary = f"task={config.task.name} meta_agent={config.meta_agent.name} provider={config.provider.name}"
    yield CheckResult("configuration", OK, f"{summary} compute={config.compute.name}")
    for note in config.notes:
        yield CheckResult("note", OK, note)
    components = Components(config)
    yield run_check("system", _check_system)
    yield run_check("packages", _check_packages, config)
    yield run_check("proposer", lambda: f"{components.proposer.__class__.__name__} can be built")
    yield run_check("data", _check_task_data, components)
    yield run_check("sandbox", _check_sandbox, components)
    yield run_check("policy", _check_policy_backend, config)
    yield run_check("memory", _check_memory, config)
    if config.has_policy and config.target_agent.policy.backend == "tinker":
        yield run_check("service", _check_service, config)
        yield run_check("update", _check_update_price, components)
    for role, hosted in called_models(config):
        yield run_check(f"{role_name(role)}'s key", _check_key, hosted)
        yield run_check(f"{role_name(role)}'s price", _check_model_price, hosted, config.budget)
        yield run_check(f"{role_name(role)}'s model", _check_model, hosted)
    yield from _gateway_checks(config, call)
    yield run_check("disk", _check_disk, config, runs)
    yield (cluster := run_check("cluster", check_cluster, config))
    for name, check in CLUSTER_CHECKS.items() if cluster.state == OK else ():
        yield run_check(name, check, config)


def _gateway_checks(config: Experiment, call: bool) -> Iterator[CheckResult]:
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
                yield run_check(f"{role_name(role)}'s gateway", _check_gateway, context, gateway, role, folder)
            for role in roles:
                yield run_check(f"{role_name(role)}'s call", _check_call, context, gateway, role, folder, call)
        finally:
            context.close_gateway()


_PROBE_SECONDS = 30.0  # time limit of the probe in the sandbox
_PROBE = """\
import os, urllib.request
url, token = os.environ["OPENAI_BASE_URL"] + "/models", os.environ["OPENAI_API_KEY"]
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
with urllib.request.urlopen(request, timeout=10) as response:
    assert os.environ["SIA_MODEL"] in response.read().decode(), "the gateway does not list SIA_MODEL"
"""


def _check_system() -> str:
    if not sys.platform.startswith("linux"):
        raise RunDirectoryError("SIA Runner runs on Linux; on macOS use Docker, on Windows WSL2")
    return f"Python {platform.python_version()} on {platform.system()} {platform.release()}"


def _check_packages(config: Experiment) -> str:
    check_custom_classes(config)
    names = ["core"]
    if hosted_roles(config):
        service.check_installed()
        names.append("models")
    if config.sandbox.allow_installs:
        if importlib.util.find_spec("uv") is None and shutil.which("uv") is None:
            raise RunDirectoryError("sandbox.allow_installs needs uv; pip install 'sia-runner[installs]'")
        names.append("installs")
    return ", ".join(names)


def _check_task_data(context: Components) -> str:
    task = context.task
    task.prepare(lambda text: None)
    if not task.has_test:
        return "a sia-agent folder, scored as a whole"
    sizes = {name: len(units) for name, units in task.splits().items()}
    return ", ".join(f"{count} {name}" for name, count in sizes.items() if count)


def _check_memory(config: Experiment) -> str:
    """Check that the policy fits where stages load it."""
    try:
        lines = list(fit_lines(config))
    except PolicyError as unknown:
        raise CheckSkipped(str(unknown)) from None
    if not lines:
        raise CheckSkipped("no stage loads a pretrained base")
    return "; ".join(lines)


def _check_sandbox(context: Components) -> str:
    config, box = context.config, context.sandbox
    verifier_sandbox.check_machine(context)
    box.check(with_gateway=config.needs_gateway)
    gaps = box.gaps(with_gateway=config.needs_gateway)
    return f"{box.name} works" + (f"; it leaves open: {'; '.join(gaps)}" if gaps else "")


def _check_key(hosted: HostedProvider) -> str:
    if key_of(hosted) is None:
        raise CheckSkipped(f"provider {hosted.name} needs no key")
    return f"provider {hosted.name}: the key is set"


def _check_policy_backend(config: Experiment) -> str:
    if not config.has_policy:
        raise CheckSkipped("no weights are trained")
    spec = config.target_agent.policy
    check_policy(spec, starts_here=not isinstance(config.compute, SlurmComputeConfig))
    check_adapters(config)
    where = f" at {spec.base_url}" if spec.base_url else ""
    if spec.backend == "vllm" and not spec.base_url:
        servers = spec.vllm.servers
        starts = "the run starts for all stages" if config.shares_servers else "each stage starts"
        where = f", which {starts}: {servers} server{'s' * (servers > 1)} of {spec.vllm.tensor_parallel} GPU(s)"
    return f"{spec.base}, served by {spec.backend}{where}"


def _check_service(config: Experiment) -> str:
    from sia_runner.policy.tinker import TinkerPolicy

    spec = config.target_agent.policy
    return TinkerPolicy(spec, tinker_client(spec)).prove(config.seed)


def _check_update_price(components: Components) -> str:
    config = components.config
    if not trains_at_service(config):
        raise CheckSkipped("no weights are trained")
    return f"{update_line(config, measure_task(config), 'expected')}; {policy_price(config)}"


def _check_model_price(hosted: HostedProvider, budget: BudgetConfig) -> str:
    service.check_price(hosted, budget)
    rates = price_of(hosted)
    if rates is None:
        raise CheckSkipped(f"prices of {hosted.model} are not known, and no limit needs them")
    return f"{hosted.model}: {price_text(rates)}"


def _check_model(hosted: HostedProvider) -> str:
    return f"provider {hosted.name} {EndpointProbe(hosted).answer()}"


def _check_gateway(context: RunContext, gateway: service.GatewayService, role: Role, folder: Path) -> str:
    if role == "meta" and not hasattr(context.config.meta_agent, "seconds"):
        raise CheckSkipped("the proposer calls from this process")
    harness, data, work, log = (folder / role / name for name in ("harness", "data", "work", "log"))
    for path in (harness, data, work):
        path.mkdir(parents=True)
    (harness / "target_agent.py").write_text(_PROBE)
    limits = context.sandbox_limits(_PROBE_SECONDS)
    with gateway.open_session(_grant(role, folder)) as session:
        result = context.sandbox.run(
            SandboxJob(harness, "target_agent.py", data, work, log, limits, gateway=session.address)
        )
    if failure := describe_failure(result, log):
        raise SandboxError(f"a harness does not reach the gateway: {failure}")
    return "a harness in the sandbox reaches it"


_NOTHING = {"type": "object", "properties": {}}
_TOOL = {"type": "function", "function": {"name": "ok", "description": "Confirm.", "parameters": _NOTHING}}


def _check_call(context: RunContext, gateway: service.GatewayService, role: Role, folder: Path, call: bool) -> str:
    """Make one tiny call to the model, where --call asks for it: for a proposer with a tool and its own settings."""
    if not call:
        raise CheckSkipped("give --call to make one tiny call, which is paid for")
    meta, tools, settings = context.config.meta_agent, [], {"max_tokens": 512}
    ask = "Answer with the word ok."
    if role == "meta":
        ask, tools = "Call the tool named ok.", [_TOOL]
        settings = {name: getattr(meta, name, value) for name, value in (*settings.items(), ("temperature", None))}
    reply = gateway.chat(_grant(role, folder), [{"role": "user", "content": ask}], tools, **settings)
    answer = repr(" ".join(reply.text.split())[:40])
    if reply.tool_calls:
        answer = "with a tool call"
    elif tools:
        answer += ", and did not call the tool that it was asked to"
    return f"answered {answer}: {reply.usage.tokens} tokens, USD {reply.usage.usd:.6f}"


def _grant(role: Role, folder: Path) -> Grant:
    return Grant(role, 0, "doctor", "doctor", folder / "trajectories.jsonl")


def _check_disk(config: Experiment, runs: Path) -> str:
    """Check that a few runs of harnesses fit on the disks of run directories and cache."""
    needed = 4 * config.sandbox.disk_mb * config.compute.workers
    lines: list[str] = []
    for folder in (runs, cache_dir()):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        try:
            with tempfile.TemporaryFile(dir=existing) as probe:
                probe.write(b"x")
        except OSError as error:
            key = "hydra.run.dir" if folder == runs else "the environment variable SIA_CACHE"
            why = error.strerror or type(error).__name__
            raise RunDirectoryError(f"{folder} cannot be written ({why}); set {key} to a folder that can") from None
        free = shutil.disk_usage(existing).free >> 20
        if free < needed:
            problem = f"four work folders at once take {needed} MiB (sandbox.disk_mb)"
            raise RunDirectoryError(f"{free} MiB free in {existing}; {problem}")
        lines.append(f"{free >> 10} GiB free in {existing}")
    return ", ".join(dict.fromkeys(lines))
