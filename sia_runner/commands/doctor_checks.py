"""The checks of the doctor, also of a SLURM cluster and what each of its answers means for a run.

A check returns one line, or raises CheckSkipped or an error whose message says what to do.
"""

import importlib.util
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from sia_runner.commands.checks import CheckSkipped
from sia_runner.config.components import HostedProvider, SlurmComputeConfig, StageResources
from sia_runner.config.experiment import BudgetConfig, Experiment
from sia_runner.experiment.context import Components, RunContext
from sia_runner.experiment.costs import hosted_roles, price_text
from sia_runner.experiment.execution import describe_failure
from sia_runner.experiment.runner import check_custom_classes, stage_kinds
from sia_runner.experiment.weights.update import check_adapters
from sia_runner.gateway import service
from sia_runner.gateway.prices import price_of
from sia_runner.policy.backend import check_policy
from sia_runner.sandbox.protocol import SandboxError, SandboxJob
from sia_runner.store.run_directory import RunDirectoryError
from sia_runner.system import cache_dir
from sia_runner.wire.grants import Grant, Role
from sia_runner.wire.providers import EndpointProbe, key_of

_PROBE_SECONDS = 30.0  # time limit of the probe in the sandbox
_PROBE = """\
import os, urllib.request
url, token = os.environ["OPENAI_BASE_URL"] + "/models", os.environ["OPENAI_API_KEY"]
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token})
with urllib.request.urlopen(request, timeout=10) as response:
    assert os.environ["SIA_MODEL"] in response.read().decode(), "the gateway does not list SIA_MODEL"
"""


def check_system() -> str:
    """Check the operating system."""
    if not sys.platform.startswith("linux"):
        raise RunDirectoryError("SIA Runner runs on Linux; on macOS use Docker, on Windows WSL2")
    return f"Python {platform.python_version()} on {platform.system()} {platform.release()}"


def check_packages(config: Experiment) -> str:
    """Check that the packages of the experiment are installed."""
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


def check_task_data(context: Components) -> str:
    """Prepare the task's data and count the questions of each split."""
    task = context.task
    task.prepare(lambda text: None)
    if not task.has_test:
        return "a sia-agent folder, scored as a whole"
    sizes = {name: len(units) for name, units in task.splits().items()}
    return ", ".join(f"{count} {name}" for name, count in sizes.items() if count)


def check_sandbox(context: Components) -> str:
    """Check the sandbox and name what it leaves open."""
    config, box = context.config, context.sandbox
    box.check(door=config.needs_gateway)
    gaps = box.gaps(door=config.needs_gateway)
    return f"{box.name} works" + (f"; it leaves open: {'; '.join(gaps)}" if gaps else "")


def check_key(hosted: HostedProvider) -> str:
    """Check that the provider's key is set."""
    if key_of(hosted) is None:
        raise CheckSkipped(f"provider {hosted.name} needs no key")
    return f"provider {hosted.name}: the key is set"


def check_policy_backend(config: Experiment) -> str:
    """Check that the policy's packages are installed and that its server answers and takes adapters."""
    if not config.has_policy:
        raise CheckSkipped("no weights are trained")
    spec = config.target_agent.policy
    check_policy(spec)
    check_adapters(config)
    return f"{spec.base}, served by {spec.backend}" + (f" at {spec.base_url}" if spec.base_url else "")


def check_model_price(hosted: HostedProvider, budget: BudgetConfig) -> str:
    """Check that the model's price is known where a limit needs it."""
    service.check_price(hosted, budget)
    rates = price_of(hosted)
    if rates is None:
        raise CheckSkipped(f"prices of {hosted.model} are not known, and no limit needs them")
    return f"{hosted.model}: {price_text(rates)}"


def check_model(hosted: HostedProvider) -> str:
    """Check that the provider's endpoint knows the model."""
    return f"provider {hosted.name} {EndpointProbe(hosted).answer()}"


def check_gateway(context: RunContext, gateway: service.GatewayService, role: Role, folder: Path) -> str:
    """Check that a harness in the sandbox reaches the gateway."""
    if role == "meta" and not hasattr(context.config.meta_agent, "seconds"):
        raise CheckSkipped("the proposer calls from this process")
    harness, data, work, log = (folder / role / name for name in ("harness", "data", "work", "log"))
    for path in (harness, data, work):
        path.mkdir(parents=True)
    (harness / "target_agent.py").write_text(_PROBE)
    limits = context.sandbox_limits(_PROBE_SECONDS)
    with gateway.open_session(_grant(role, folder)) as session:
        result = context.sandbox.run(SandboxJob(harness, "target_agent.py", data, work, log, limits, door=session.door))
    if failure := describe_failure(result, log):
        raise SandboxError(f"a harness does not reach the gateway: {failure}")
    return "a harness in the sandbox reaches it"


_NOTHING = {"type": "object", "properties": {}}
_TOOL = {"type": "function", "function": {"name": "ok", "description": "Confirm.", "parameters": _NOTHING}}


def check_call(context: RunContext, gateway: service.GatewayService, role: Role, folder: Path, *, call: bool) -> str:
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


def check_disk(config: Experiment, runs: Path) -> str:
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
            raise RunDirectoryError(
                f"{free} MiB free in {existing}; four work folders at once take {needed} MiB (sandbox.disk_mb)"
            )
        lines.append(f"{free >> 10} GiB free in {existing}")
    return ", ".join(dict.fromkeys(lines))


_SLURM_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")
_COMMAND_SECONDS = 20.0  # a busy controller is slow; one that is down never answers
_PREEMPTION_MODES = {
    "OFF": "jobs are never preempted",
    "REQUEUE": "a preempted job is put back into the queue and goes on from its last checkpoint",
    "CANCEL": "a preempted job is cancelled; the driver submits it again, so that it goes on from its last checkpoint",
    "SUSPEND": "a preempted job stands still and goes on by itself; its time limit does not",
    "GANG": "jobs take turns on the same processors: time limits of harnesses may be passed through no fault of theirs",
}


def check_cluster(config: Experiment) -> str:
    """Check that a partition is up."""
    if config.compute.name != "slurm":
        raise CheckSkipped(f"compute={config.compute.name} uses no cluster")
    partitions = _output_of("sinfo", "--noheader", "--format=%P %a %D").splitlines()
    up = [line.split()[0] for line in partitions if " up " in line]
    if not up:
        raise RunDirectoryError("sinfo shows no partition that is up")
    return f"partitions {', '.join(up)}"


def check_slurm_commands(_: Experiment) -> str:
    """Check that SLURM's commands are installed here."""
    missing = [name for name in _SLURM_COMMANDS if shutil.which(name) is None]
    if missing:
        raise RunDirectoryError(
            f"{', '.join(missing)} not found: jobs cannot be submitted and followed from this machine"
        )
    without = "" if shutil.which("sacct") else "; no sacct"
    return f"{_output_of('sbatch', '--version').strip()}; {', '.join(_SLURM_COMMANDS)}{without}"


def list_partitions(_: Experiment) -> str:
    """List the limits of each partition, and the names to request its GPUs by."""
    sizes: dict[str, list[str]] = {}
    for line in _output_of("sinfo", "--noheader", "--format=%P|%l|%D|%c|%m|%G").splitlines():
        name, longest, nodes, cpus, memory, gres = line.strip().split("|")
        gpus = ", ".join(re.findall(r"gpu:[\w.:-]+", gres))
        size = f"{nodes} x {cpus} cpus, {int(memory.rstrip('+')) / 1024:.0f} GiB{f', {gpus}' if gpus else ''}"
        sizes.setdefault(name.replace("*", " (default)"), [f"at most {longest}"]).append(size)
    text = "; ".join(f"{name}: {', '.join(parts)}" for name, parts in sizes.items())
    return text + ("" if "gpu:" in text else "; no GPUs: weights are trained on processors")


def check_jobs(config: Experiment) -> str:
    """Ask the controller about each kind of stage without submitting anything. Raises ComputeError."""
    if not isinstance(config.compute, SlurmComputeConfig):
        raise CheckSkipped("compute is a class of your own; it is checked when a run starts")
    apart = [kind for kind in stage_kinds(config) if config.compute.resources.of(kind).run_in != "driver"]
    Components(config).compute.check(apart)
    for kind in apart:
        _check_time_limit(kind, config.compute.resources.of(kind))
    return f"sbatch accepts jobs for {', '.join(apart)} from this user; the rest runs in the driver"


def _check_time_limit(kind: str, resources: StageResources) -> None:
    """Raise RunError for a job longer than its partition allows: most clusters accept it and never start it."""
    for line in _output_of("sinfo", "--noheader", "--format=%P %l").splitlines():
        name, limit = line.split()
        matches = name.rstrip("*") == resources.partition if resources.partition else name.endswith("*")
        if matches and (resources.minutes or 0) > _parse_minutes(limit):
            raise RunDirectoryError(
                f"compute.resources.{kind}.minutes={resources.minutes}: partition {name.rstrip('*')} allows "
                f"{_parse_minutes(limit):.0f} at most; such a job would never start"
            )


def _parse_minutes(limit: str) -> float:
    """Convert ``infinite``, ``MM:SS``, ``HH:MM:SS`` or ``D-HH:MM:SS`` to minutes."""
    if not limit[0].isdigit():
        return math.inf
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = [0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 24 * 60 + hours * 60 + minutes + seconds / 60


def report_accounting(_: Experiment) -> str:
    """Report whether sacct answers. Its absence is no fault: the runner works without it."""
    if shutil.which("sacct"):
        process = subprocess.run(
            ["sacct", "--noheader", "--starttime=now"], capture_output=True, check=False, timeout=_COMMAND_SECONDS
        )
        if not process.returncode and _slurm_settings().get("AccountingStorageType") != "accounting_storage/none":
            return "sacct answers: how a job ended is known however long ago"
    age = _slurm_settings().get("MinJobAge", "300 sec")
    return f"none: squeue forgets a job {age} after its end; one that left a result counts, else it is submitted again"


def report_array_limit(_: Experiment) -> str:
    """Report how many jobs an array may have."""
    largest = _slurm_settings().get("MaxArraySize", "an unknown number of")
    return f"of at most {largest} jobs; a sweep submits what fits, and more when jobs end"


def report_requeueing(_: Experiment) -> str:
    """Report whether jobs are queued again after a node failure."""
    if _slurm_settings().get("JobRequeue") == "0":
        return "off: a job whose node fails is lost and submitted again by the driver; a driver that is a job is not"
    return "on: a job whose node fails is started again, and so is slurm/driver.sbatch"


def report_preemption(_: Experiment) -> str:
    """Report what the cluster does with preempted jobs."""
    settings = _slurm_settings()
    if settings.get("PreemptType", "preempt/none") == "preempt/none":
        return _PREEMPTION_MODES["OFF"]
    modes = settings.get("PreemptMode", "OFF").split(",")
    text = "; ".join(_PREEMPTION_MODES.get(mode, mode) for mode in modes)
    warned = "preempt_send_user_signal" in settings.get("SlurmctldParameters", "")
    signal = "warned before" if warned else "not warned before (preempt_send_user_signal is not set)"
    return text if modes == ["OFF"] else f"{text}; jobs are {signal}"


def report_sbatch_variables(_: Experiment) -> str:
    """Report SBATCH_… variables: they apply to jobs that a user submits, not to the jobs of a run."""
    names = sorted(name for name in os.environ if name.startswith("SBATCH_"))
    if not names:
        raise CheckSkipped("no SBATCH_… is set")
    assignments = ", ".join(f"{name}={os.environ[name]}" for name in names)
    return f"{assignments}: heeded by slurm/driver.sbatch; jobs of a run take compute.resources only"


CLUSTER_CHECKS: Mapping[str, Callable[[Experiment], str]] = {
    "commands": check_slurm_commands,
    "partitions": list_partitions,
    "jobs": check_jobs,
    "job arrays": report_array_limit,
    "accounting": report_accounting,
    "requeueing": report_requeueing,
    "preemption": report_preemption,
    "sbatch variables": report_sbatch_variables,
}


@lru_cache(maxsize=1)
def _slurm_settings() -> Mapping[str, str]:
    """Return the output of `scontrol show config` as a mapping."""
    lines = _output_of("scontrol", "show", "config").splitlines()
    return {name.strip(): value.strip() for name, mark, value in (line.partition("=") for line in lines) if mark}


def _output_of(*command: str) -> str:
    """Return the standard output of a command. Raises RunError with one line."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunDirectoryError(f"{command[0]} cannot be run ({error}): is this a login node of the cluster?") from None
    if process.returncode:
        raise RunDirectoryError(f"{command[0]}: {(process.stderr.strip() or 'failed').splitlines()[-1]}")
    return process.stdout
