"""What the doctor finds out about a SLURM cluster, and what each of it means for a run. See `checks`."""

import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from functools import lru_cache

from sia_runner.config import Experiment
from sia_runner.doctor.checks import Skipped
from sia_runner.rooms import rooms
from sia_runner.run.runner import kinds
from sia_runner.rundir import RunError
from sia_runner.schema.compute import Resources, Slurm

_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "srun")
_SECONDS = 20.0  # a busy controller takes its time; one that is away takes longer
_OF_PREEMPTION = {
    "OFF": "jobs are never preempted",
    "REQUEUE": "a preempted job is put back into the queue and goes on from its last checkpoint",
    "CANCEL": "a preempted job is cancelled; the driver submits it again, so that it goes on from its last checkpoint",
    "SUSPEND": "a preempted job stands still and goes on by itself; its time limit does not",
    "GANG": "jobs take turns on the same processors: time limits of harnesses may be passed through no fault of theirs",
}


def cluster(config: Experiment) -> str:
    if config.compute.name != "slurm":
        raise Skipped(f"compute={config.compute.name} needs none")
    up = [line.split()[0] for line in _said("sinfo", "--noheader", "--format=%P %a %D").splitlines() if " up " in line]
    if not up:
        raise RunError("sinfo shows no partition that is up")
    return f"partitions {', '.join(up)}"


def commands(_: Experiment) -> str:
    missing = [name for name in _COMMANDS if shutil.which(name) is None]
    if missing:
        raise RunError(f"{', '.join(missing)} not found: jobs cannot be submitted and followed from this machine")
    without = "" if shutil.which("sacct") else "; no sacct"
    return f"{_said('sbatch', '--version').strip()}; {', '.join(_COMMANDS)}{without}"


def partitions(_: Experiment) -> str:
    """Limits of each, and the names that GPUs are asked for by."""
    found: dict[str, list[str]] = {}
    for line in _said("sinfo", "--noheader", "--format=%P|%l|%D|%c|%m|%G").splitlines():
        name, longest, nodes, cpus, memory, gres = line.strip().split("|")
        gpus = ", ".join(re.findall(r"gpu:[\w.:-]+", gres))
        size = f"{nodes} x {cpus} cpus, {int(memory.rstrip('+')) / 1024:.0f} GiB{f', {gpus}' if gpus else ''}"
        found.setdefault(name.replace("*", " (default)"), [f"at most {longest}"]).append(size)
    says = "; ".join(f"{name}: {', '.join(of_one)}" for name, of_one in found.items())
    return says + ("" if "gpu:" in says else "; no GPUs: weights are trained on processors")


def jobs(config: Experiment) -> str:
    """Asks the controller for each kind of stage, and submits nothing. Raises ComputeError."""
    if not isinstance(config.compute, Slurm):
        raise Skipped("of a class of your own: it says when a run starts")
    apart = [kind for kind in kinds(config) if config.compute.resources.of(kind).where != "driver"]
    rooms(config).compute.check(apart)
    for kind in apart:
        _check_time(kind, config.compute.resources.of(kind))
    return f"sbatch accepts jobs for {', '.join(apart)} from this user; the rest runs in the driver"


def _check_time(kind: str, asked: Resources) -> None:
    """Most clusters accept a job that is longer than its partition allows, and never start it."""
    for line in _said("sinfo", "--noheader", "--format=%P %l").splitlines():
        name, limit = line.split()
        ours = name.rstrip("*") == asked.partition if asked.partition else name.endswith("*")
        if ours and (asked.minutes or 0) > _minutes(limit):
            raise RunError(
                f"compute.resources.{kind}.minutes={asked.minutes}: partition {name.rstrip('*')} allows "
                f"{_minutes(limit):.0f} at most; such a job would never start"
            )


def _minutes(limit: str) -> float:
    """Of ``infinite``, ``MM:SS``, ``HH:MM:SS`` or ``D-HH:MM:SS``."""
    if not limit[0].isdigit():
        return math.inf
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = [0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 24 * 60 + hours * 60 + minutes + seconds / 60


def accounting(_: Experiment) -> str:
    """Never a fault: both ways are built for."""
    if shutil.which("sacct"):
        asked = subprocess.run(
            ["sacct", "--noheader", "--starttime=now"], capture_output=True, check=False, timeout=_SECONDS
        )
        if not asked.returncode and _settings().get("AccountingStorageType") != "accounting_storage/none":
            return "sacct answers: how a job ended is known however long ago"
    age = _settings().get("MinJobAge", "300 sec")
    return f"none: squeue forgets a job {age} after its end; one that left a result counts, else it is submitted again"


def requeueing(_: Experiment) -> str:
    if _settings().get("JobRequeue") == "0":
        return "off: a job whose node fails is lost and submitted again by the driver; a driver that is a job is not"
    return "on: a job whose node fails is started again, and so is slurm/driver.sbatch"


def preemption(_: Experiment) -> str:
    settings = _settings()
    if settings.get("PreemptType", "preempt/none") == "preempt/none":
        return _OF_PREEMPTION["OFF"]
    modes = settings.get("PreemptMode", "OFF").split(",")
    says = "; ".join(_OF_PREEMPTION.get(mode, mode) for mode in modes)
    warned = "preempt_send_user_signal" in settings.get("SlurmctldParameters", "")
    signal = "warned before" if warned else "not warned before (preempt_send_user_signal is not set)"
    return says if modes == ["OFF"] else f"{says}; jobs are {signal}"


def variables(_: Experiment) -> str:
    """They are set for jobs that a user submits; ours say themselves what they need."""
    named = sorted(name for name in os.environ if name.startswith("SBATCH_"))
    if not named:
        raise Skipped("no SBATCH_… is set")
    given = ", ".join(f"{name}={os.environ[name]}" for name in named)
    return f"{given}: heeded by slurm/driver.sbatch; jobs of a run take compute.resources only"


CHECKS: Mapping[str, Callable[[Experiment], str]] = {
    "commands": commands,
    "partitions": partitions,
    "jobs": jobs,
    "accounting": accounting,
    "requeueing": requeueing,
    "preemption": preemption,
    "sbatch variables": variables,
}


@lru_cache(maxsize=1)
def _settings() -> Mapping[str, str]:
    """What `scontrol show config` says."""
    lines = _said("scontrol", "show", "config").splitlines()
    return {name.strip(): value.strip() for name, mark, value in (line.partition("=") for line in lines) if mark}


def _said(*command: str) -> str:
    """Raises RunError in one line."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(f"{command[0]} cannot be run ({error}): is this a login node of the cluster?") from None
    if done.returncode:
        raise RunError(f"{command[0]}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return done.stdout
