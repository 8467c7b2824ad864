"""Running a stage in a process of its own, perhaps on another node: it first prepares what the driver has prepared."""

import socket
from collections.abc import Callable
from typing import Any

from sia_runner.config.experiment import Experiment
from sia_runner.experiment.context import build_components, close_gateway
from sia_runner.experiment.execution import SandboxFailed
from sia_runner.sandbox.protocol import SandboxError
from sia_runner.store.run_directory import RunDir

Result = dict[str, Any]


def run_stage_in_job(stage: Callable[..., Result], config: Experiment, run: RunDir, n: int, *arguments: Any) -> Result:
    """Run the stage, and release what this process reserved of the budget.

    Raises SandboxFailed where this node has no sandbox: that is not the candidate's fault.
    """
    components = build_components(config)
    components.task.prepare(lambda _: None)
    try:
        components.sandbox.check(door=config.needs_gateway)
    except SandboxError as error:
        raise SandboxFailed(f"{socket.gethostname()}: {error}") from error
    try:
        return stage(config, run, n, *arguments)
    finally:
        close_gateway(config, run)
