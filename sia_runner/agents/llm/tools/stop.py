"""Ends the search because nothing is left to try."""

from pydantic import Field

from sia_runner.agents.llm.desk import Desk, Stopped, clip, plain
from sia_runner.agents.llm.tools.base import Arguments, Tool


class Stop(Arguments):
    """The arguments of `stop`."""

    reason: str = Field(min_length=1, description="what was tried, and why nothing more can be gained")


def _stop(desk: Desk, arguments: Stop) -> str:
    desk.decision = Stopped(clip(plain(arguments.reason), 4000))
    return "stopped"


STOP = Tool(
    "stop",
    "End the whole experiment's search, because nothing is left that could gain anything. Rarely right.",
    Stop,
    _stop,
)
