"""Options and messages of sbatch."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

from sia_runner.ground.resources import cache_dir
from sia_runner.schema.compute import Resources

# a controller that is away, or a user's full queue: the same submission may do later
TRANSIENT_ERRORS = re.compile(
    "unable to contact|socket timed out|connection refused|zero bytes|temporarily|try again"
    "|job submit limit|MaxSubmitJob|submitted too many|job violates accounting/QOS policy",
    re.I,
)


def sbatch_parameters(resources: Resources, warning: int) -> dict[str, Any]:
    """Return the parameters of submitit's slurm executor.

    `warning`: USR2 is sent that many seconds before the time limit.
    """
    extra: dict[str, Any] = {"requeue": True}  # after a preemption or a broken node
    if resources.reservation:
        extra["reservation"] = resources.reservation
    options = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "cpus_per_task": resources.cpus,
        "mem": f"{int(resources.memory_gb * 1024)}M" if resources.memory_gb else None,
        "gres": f"gpu:{resources.gpus}" if resources.gpus else None,
        "time": resources.minutes,
        "constraint": resources.constraint,
        "nodelist": resources.nodelist,
        "exclude": resources.exclude,
        # a step does not inherit the processors of its job
        "srun_args": [f"--cpus-per-task={resources.cpus}"] if resources.cpus else None,
    }
    return {
        **{key: value for key, value in options.items() if value is not None},
        "wckey": None,
        "signal_delay_s": warning,
        "setup": [*_exports(), *(resources.setup or [])],
        "additional_parameters": extra | (resources.extra or {}),
    }


def _exports() -> list[str]:
    """Return shell lines with the driver's paths, for clusters where sbatch passes no environment on.

    They hold no keys: this is a file.
    """
    root = Path(__file__).resolve().parents[2]
    paths = [] if root.name == "site-packages" else [str(root)]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    path = os.pathsep.join(dict.fromkeys(paths))
    return [f"export PYTHONPATH={shlex.quote(path)}", f"export SIA_CACHE={shlex.quote(str(cache_dir()))}"]


def environment_outside_jobs() -> dict[str, str]:
    """Return this environment without the variables that a job would inherit from an enclosing job."""
    inside = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
    return {name: value for name, value in os.environ.items() if not name.startswith(inside)}


def sbatch_error_line(error: BaseException) -> str:
    """Return sbatch's line of an error that submitit raised."""
    lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()]
    return lines[-1] if lines else (str(error).strip().splitlines() or [type(error).__name__])[-1]
