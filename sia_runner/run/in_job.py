"""A stage in a process of its own, perhaps on another node: what the driver has ready is made ready here too."""

import socket
from collections.abc import Callable
from typing import Any

from sia_runner.candidate.execute import SandboxFailed
from sia_runner.config import Experiment
from sia_runner.rooms import close_models, rooms
from sia_runner.rundir import RunDir
from sia_runner.sandbox.protocol import SandboxError

Result = dict[str, Any]


def carry_out(stage: Callable[..., Result], config: Experiment, run: RunDir, n: int, *given: Any) -> Result:
    """What the stage returns or raises. What this process held of the budget is given back. Raises SandboxFailed where
    this node has no sandbox: that is not the candidate's fault."""
    room = rooms(config)
    room.task.prepare(lambda _: None)
    try:
        room.sandbox.check(door=config.needs_door)
    except SandboxError as error:
        raise SandboxFailed(f"{socket.gethostname()}: {error}") from error
    try:
        return stage(config, run, n, *given)
    finally:
        close_models(config, run)
