"""Say that nothing is left to try."""

from pydantic import Field

from sia_runner.agents.llm.desk import Desk, Stopped, clip, plain
from sia_runner.agents.llm.tools.base import Arguments, Tool


class Stop(Arguments):
    reason: str = Field(min_length=1, description="what was tried, and why nothing more can be gained")


def _run(desk: Desk, given: Stop) -> str:
    desk.decision = Stopped(clip(plain(given.reason), 4000))
    return "stopped"


TOOL = Tool(
    "stop",
    "End the whole experiment's search, because nothing is left that could gain anything. Rarely right.",
    Stop,
    _run,
)
