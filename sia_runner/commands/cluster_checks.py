"""The doctor's checks of a SLURM cluster, and what each of its answers means for a run."""

import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import lru_cache

from sia_runner.commands.checks import CheckSkipped
from sia_runner.config.components import SlurmComputeConfig, StageResources
from sia_runner.config.experiment import Experiment
from sia_runner.experiment.context import Components
from sia_runner.experiment.resources import stage_resources
from sia_runner.experiment.runner import job_kinds
from sia_runner.store.run_directory import RunDirectoryError

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


def _check_commands(_: Experiment) -> str:
    missing = ", ".join(name for name in _SLURM_COMMANDS if shutil.which(name) is None)
    if missing:
        raise RunDirectoryError(f"{missing} not found: jobs cannot be submitted and followed from this machine")
    without = "" if shutil.which("sacct") else "; no sacct"
    return f"{_output_of('sbatch', '--version').strip()}; {', '.join(_SLURM_COMMANDS)}{without}"


def _list_partitions(_: Experiment) -> str:
    """List the limits of each partition, and the names to request its GPUs by."""
    sizes: dict[str, list[str]] = {}
    for line in _output_of("sinfo", "--noheader", "--format=%P|%l|%D|%c|%m|%G").splitlines():
        name, longest, nodes, cpus, memory, gres = line.strip().split("|")
        gpus = ", ".join(re.findall(r"gpu:[\w.:-]+", gres))
        size = f"{nodes} x {cpus} cpus, {int(memory.rstrip('+')) / 1024:.0f} GiB{f', {gpus}' if gpus else ''}"
        sizes.setdefault(name.replace("*", " (default)"), [f"at most {longest}"]).append(size)
    text = "; ".join(f"{name}: {', '.join(parts)}" for name, parts in sizes.items())
    return text + ("" if "gpu:" in text else "; no GPUs: weights are trained on processors")


def _check_jobs(config: Experiment) -> str:
    """Ask the controller about each kind of stage without submitting anything. Raises ComputeError."""
    if not isinstance(config.compute, SlurmComputeConfig):
        raise CheckSkipped("compute is a class of your own; it is checked when a run starts")
    apart = [kind for kind in job_kinds(config) if stage_resources(config, kind).run_in != "driver"]
    Components(config).compute.check(apart)
    for kind in apart:
        _check_time_limit(kind, stage_resources(config, kind))
    return f"sbatch accepts jobs for {', '.join(apart)} from this user; the rest runs in the driver"


def _check_time_limit(kind: str, resources: StageResources) -> None:
    """Raise RunError for a job longer than its partition allows: most clusters accept it and never start it."""
    for line in _output_of("sinfo", "--noheader", "--format=%P %l").splitlines():
        name, limit = line.split()
        matches = name.rstrip("*") == resources.partition if resources.partition else name.endswith("*")
        if matches and (resources.minutes or 0) > _parse_minutes(limit):
            allowed = f"partition {name.rstrip('*')} allows {_parse_minutes(limit):.0f} at most"
            key = f"compute.resources.{kind}.minutes={resources.minutes}"
            raise RunDirectoryError(f"{key}: {allowed}; such a job would never start")


def _parse_minutes(limit: str) -> float:
    """Convert ``infinite``, ``MM:SS``, ``HH:MM:SS`` or ``D-HH:MM:SS`` to minutes."""
    if not limit[0].isdigit():
        return math.inf
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = [0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 24 * 60 + hours * 60 + minutes + seconds / 60


def _report_accounting(_: Experiment) -> str:
    """Report whether sacct answers. Its absence is no fault: the runner works without it."""
    if shutil.which("sacct"):
        command = ["sacct", "--noheader", "--starttime=now"]
        process = subprocess.run(command, capture_output=True, check=False, timeout=_COMMAND_SECONDS)
        if not process.returncode and _slurm_settings().get("AccountingStorageType") != "accounting_storage/none":
            return "sacct answers: how a job ended is known however long ago"
    age = _slurm_settings().get("MinJobAge", "300 sec")
    return f"none: squeue forgets a job {age} after its end; one that left a result counts, else it is submitted again"


def _report_array_limit(_: Experiment) -> str:
    largest = _slurm_settings().get("MaxArraySize", "an unknown number of")
    return f"of at most {largest} jobs; a sweep submits what fits, and more when jobs end"


def _report_requeueing(_: Experiment) -> str:
    if _slurm_settings().get("JobRequeue") == "0":
        return "off: a job whose node fails is lost and submitted again by the driver; a driver that is a job is not"
    return "on: a job whose node fails is started again, and so is slurm/driver.sbatch"


def _report_preemption(_: Experiment) -> str:
    settings = _slurm_settings()
    if settings.get("PreemptType", "preempt/none") == "preempt/none":
        return _PREEMPTION_MODES["OFF"]
    modes = settings.get("PreemptMode", "OFF").split(",")
    text = "; ".join(_PREEMPTION_MODES.get(mode, mode) for mode in modes)
    warned = "preempt_send_user_signal" in settings.get("SlurmctldParameters", "")
    signal = "warned before" if warned else "not warned before (preempt_send_user_signal is not set)"
    return text if modes == ["OFF"] else f"{text}; jobs are {signal}"


def _report_sbatch_variables(_: Experiment) -> str:
    """Report SBATCH_… variables: they apply to jobs that a user submits, not to the jobs of a run."""
    names = sorted(name for name in os.environ if name.startswith("SBATCH_"))
    if not names:
        raise CheckSkipped("no SBATCH_… is set")
    assignments = ", ".join(f"{name}={os.environ[name]}" for name in names)
    return f"{assignments}: heeded by slurm/driver.sbatch; jobs of a run take compute.resources only"


CLUSTER_CHECKS: Mapping[str, Callable[[Experiment], str]] = {
    "commands": _check_commands,
    "partitions": _list_partitions,
    "jobs": _check_jobs,
    "job arrays": _report_array_limit,
    "accounting": _report_accounting,
    "requeueing": _report_requeueing,
    "preemption": _report_preemption,
    "sbatch variables": _report_sbatch_variables,
}


@lru_cache(maxsize=1)
def _slurm_settings() -> Mapping[str, str]:
    lines = _output_of("scontrol", "show", "config").splitlines()
    return {name.strip(): value.strip() for name, mark, value in (line.partition("=") for line in lines) if mark}


def _output_of(*command: str) -> str:
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunDirectoryError(f"{command[0]} cannot be run ({error}): is this a login node of the cluster?") from None
    if process.returncode:
        raise RunDirectoryError(f"{command[0]}: {(process.stderr.strip() or 'failed').splitlines()[-1]}")
    return process.stdout
