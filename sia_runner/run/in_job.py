"""Running a stage in a process of its own, perhaps on another node: it first prepares what the driver has prepared."""

import socket
from collections.abc import Callable
from typing import Any

from sia_runner.candidate.execute import SandboxFailed
from sia_runner.config import Experiment
from sia_runner.rooms import close_models, rooms
from sia_runner.rundir import RunDir
from sia_runner.sandbox.protocol import SandboxError

Result = dict[str, Any]


def carry_out(stage: Callable[..., Result], config: Experiment, run: RunDir, n: int, *arguments: Any) -> Result:
    """Run the stage, and release what this process reserved of the budget.

    Raises SandboxFailed where this node has no sandbox: that is not the candidate's fault.
    """
    components = rooms(config)
    components.task.prepare(lambda _: None)
    try:
        components.sandbox.check(door=config.needs_door)
    except SandboxError as error:
        raise SandboxFailed(f"{socket.gethostname()}: {error}") from error
    try:
        return stage(config, run, n, *arguments)
    finally:
        close_models(config, run)
