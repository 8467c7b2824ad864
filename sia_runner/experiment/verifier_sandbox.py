"""Run one program in the run's sandbox for a verifier, a process of its own that may not import the sandbox.

The sandbox is an argument, the job a line of standard input, the result is standard output, all of them JSON.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from sia_runner.config.base import is_custom, load_class
from sia_runner.config.components import sandbox_arguments
from sia_runner.config.experiment import Experiment
from sia_runner.records import Json
from sia_runner.sandbox.protocol import Sandbox, SandboxJob, SandboxLimits
from sia_runner.system import exit_with_parent
from sia_runner.tasks.protocol import TaskError

if TYPE_CHECKING:  # the program below must start fast: it imports no other component
    from sia_runner.experiment.context import Components

_ROOT = str(Path(__file__).resolve().parents[2])
_IMPORT = "from sia_runner.experiment.verifier_sandbox import main"
_BOOT = f"import sys; sys.path.insert(0, sys.argv[1]); {_IMPORT}; main(sys.argv[2])"
_NVIDIA = "/.singularity.d/libs"
# what sandboxes look for: programs, engines, devices. A verifier's own environment is empty.
_VARIABLES = ("PATH", "HOME", "TMPDIR", "DOCKER_HOST", "XDG_RUNTIME_DIR", "CUDA_VISIBLE_DEVICES")


def check_gpu(config: Experiment, *, here: bool) -> None:
    """Raise TaskError where the task runs submissions on a GPU and there is none (`here`: on this very machine)."""
    task, box = config.task, config.sandbox
    if not getattr(task, "needs_gpu", False):
        return
    if not getattr(box, "gpus", 0):
        allowed = "allowed: sandbox=docker sandbox.gpus=1, sandbox=apptainer sandbox.gpus=-1"
        raise TaskError(f"task={task.name} runs kernels on a GPU, and sandbox={box.name} shows none; {allowed}")
    if here and not Path("/dev/nvidiactl").exists():
        raise TaskError(f"task={task.name} runs kernels on a CUDA GPU, and this machine has none")


def check_machine(context: "Components") -> None:
    """Raise TaskError where verifying runs programs, and the sandbox is on another machine than the verifier."""
    if context.task.executes and getattr(context.sandbox, "is_remote", False):
        why = "its verifier speaks with programs in the sandbox through pipes, which lead to no other machine"
        raise TaskError(f"task={context.task.name} with sandbox={context.sandbox.name}: {why}; allowed: a sandbox here")


def sandbox_command(context: "Components") -> list[str]:
    """Return the command with which a verifier starts this program (sia_runner/tasks/submission_sandbox.py)."""
    config = context.config.sandbox
    kind = type(context.sandbox)  # `auto` has chosen already
    target = f"{kind.__module__}.{kind.__qualname__}"
    plan = {
        "target": target,
        "path": sys.path if is_custom(target) else [],  # where the user's own package is found
        "keys": sandbox_arguments(config),
        "limits": config.model_dump(include={"memory_mb", "processes", "disk_mb", "file_mb", "output_kb", "cpus"}),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }
    return [sys.executable, "-I", "-c", _BOOT, _ROOT, json.dumps(plan)]


def main(plan_json: str) -> None:
    """Run the job on standard input in the sandbox that `plan_json` describes."""
    plan = json.loads(plan_json)
    os.environ.update(plan["environment"])
    sys.path += plan["path"]
    job = json.loads(sys.stdin.buffer.readline())
    exit_with_parent(sys.stdin.buffer)  # the sandbox's supervisor then ends the sandbox
    box: Sandbox = load_class(plan["target"])(**plan["keys"])
    top, limits = Path(job["top"]), SandboxLimits(seconds=job["seconds"], **plan["limits"])
    folders: Json = {name: top / name for name in ("harness", "data", "work", "log")}
    result = box.run(SandboxJob(**folders, entry=job["entry"], limits=limits, env=_for_gpus(plan)))
    sys.stdout.write(json.dumps(asdict(result)))


def _for_gpus(plan: Json) -> dict[str, str]:
    if not plan["keys"].get("gpus") or not plan["target"].endswith(".Apptainer"):
        return {}
    # which puts the driver's libraries where nothing looks, and makes every GPU visible; Docker only those asked for
    chosen = plan["environment"].get("CUDA_VISIBLE_DEVICES")
    return {"LD_LIBRARY_PATH": _NVIDIA} | ({} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen})
