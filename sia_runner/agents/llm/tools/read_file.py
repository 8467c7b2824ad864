"""A file, or some of its lines."""

from typing import Annotated

from pydantic import Field

from sia_runner.agents.llm import paths
from sia_runner.agents.llm.desk import Desk, clip
from sia_runner.agents.llm.draft import Refused
from sia_runner.agents.llm.tools.base import Arguments, Tool


class ReadFile(Arguments):
    path: str = Field(description="evidence/... or harness/...")
    offset: Annotated[int, Field(ge=1)] = Field(1, description="first line, counted from 1")
    limit: Annotated[int, Field(ge=1)] = Field(1000, description="most lines")


def _run(desk: Desk, given: ReadFile) -> str:
    place, name = paths.split(given.path)
    lines = desk.text(place, name).split("\n")
    if lines[-1] == "":
        lines.pop()  # what ends with a newline has no empty last line
    if given.offset > max(1, len(lines)):
        raise Refused(f"{place}/{name} has {len(lines)} lines")
    shown, room = [], desk.room - 200  # for the headline
    for line in lines[given.offset - 1 : given.offset - 1 + given.limit]:
        cut = clip(line, desk.room // 2)
        room -= len(cut.encode(errors="replace")) + 1
        if room < 0:
            break
        shown.append(cut)
    last = given.offset - 1 + len(shown)
    more = f"; read on with offset={last + 1}" if last < len(lines) else ""
    return "\n".join([f"[{place}/{name}: lines {given.offset} to {last} of {len(lines)}{more}]", *shown])


TOOL = Tool(
    "read_file",
    "Read a text file. What is too long is cut, and the first line of the answer says where to read on.",
    ReadFile,
    _run,
)
