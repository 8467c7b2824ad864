"""What sbatch is given, and what it says."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

from sia_runner.ground.resources import cache_dir
from sia_runner.schema.compute import Resources

# a controller that is away, or a user's full queue: the same submission may do later
PASSING = re.compile(
    "unable to contact|socket timed out|connection refused|zero bytes|temporarily|try again"
    "|job submit limit|MaxSubmitJob|submitted too many|job violates accounting/QOS policy",
    re.I,
)


def parameters(asked: Resources, warning: int) -> dict[str, Any]:
    """For submitit's slurm executor. `warning`: so many seconds before the time limit USR2 is sent."""
    extra: dict[str, Any] = {"requeue": True}  # after a preemption or a broken node
    if asked.reservation:
        extra["reservation"] = asked.reservation
    given = {
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "cpus_per_task": asked.cpus,
        "mem": f"{int(asked.memory_gb * 1024)}M" if asked.memory_gb else None,
        "gres": f"gpu:{asked.gpus}" if asked.gpus else None,
        "time": asked.minutes,
        "constraint": asked.constraint,
        "nodelist": asked.nodelist,
        "exclude": asked.exclude,
        # a step does not inherit the processors of its job
        "srun_args": [f"--cpus-per-task={asked.cpus}"] if asked.cpus else None,
    }
    return {
        **{key: value for key, value in given.items() if value is not None},
        "wckey": None,
        "signal_delay_s": warning,
        "setup": [*_exports(), *(asked.setup or [])],
        "additional_parameters": extra | (asked.extra or {}),
    }


def _exports() -> list[str]:
    """What the job must find as the driver did, also where sbatch passes no environment on. No keys: this is a file."""
    root = Path(__file__).resolve().parents[2]
    paths = [] if root.name == "site-packages" else [str(root)]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join(dict.fromkeys(paths))
    return [f"export PYTHONPATH={shlex.quote(path)}", f"export SIA_CACHE={shlex.quote(str(cache_dir()))}"]


def outside() -> dict[str, str]:
    """This environment without what a job of ours would inherit from a job that we are in."""
    inside = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
    return {name: value for name, value in os.environ.items() if not name.startswith(inside)}


def said_by(error: BaseException) -> str:
    """The line of sbatch, out of what submitit raised."""
    lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()]
    return lines[-1] if lines else (str(error).strip().splitlines() or [type(error).__name__])[-1]
