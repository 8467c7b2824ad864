"""Running a stage in a process of its own, perhaps on another node: it first prepares what the driver has prepared."""

import socket
from collections.abc import Callable
from typing import Any, TypeVar

from sia_runner.experiment.context import RunContext
from sia_runner.experiment.execution import SandboxFailed
from sia_runner.sandbox.protocol import SandboxError

R = TypeVar("R")


def run_stage_in_job(stage: Callable[..., R], context: RunContext, n: int, *arguments: Any) -> R:
    """Run the stage, and release what this process reserved of the budget.

    Raises SandboxFailed where this node has no sandbox: that is not the candidate's fault.
    """
    context.task.prepare(lambda _: None)
    try:
        context.sandbox.check(door=context.config.needs_gateway)
    except SandboxError as error:
        raise SandboxFailed(f"{socket.gethostname()}: {error}") from error
    try:
        return stage(context, n, *arguments)
    finally:
        context.close_gateway()
