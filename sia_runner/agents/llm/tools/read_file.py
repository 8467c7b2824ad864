"""Reads a file, or some of its lines."""

from typing import Annotated

from pydantic import Field

from sia_runner.agents.llm import paths
from sia_runner.agents.llm.desk import Desk, clip
from sia_runner.agents.llm.draft import Refused
from sia_runner.agents.llm.tools.base import Arguments, Tool


class ReadFile(Arguments):
    """The arguments of `read_file`."""

    path: str = Field(description="evidence/... or harness/...")
    offset: Annotated[int, Field(ge=1)] = Field(1, description="first line, counted from 1")
    limit: Annotated[int, Field(ge=1)] = Field(1000, description="most lines")


def _read_file(desk: Desk, arguments: ReadFile) -> str:
    root, name = paths.split(arguments.path)
    lines = desk.text(root, name).split("\n")
    if lines[-1] == "":
        lines.pop()  # a final newline starts no line
    if arguments.offset > max(1, len(lines)):
        raise Refused(f"{root}/{name} has {len(lines)} lines")
    selected, remaining = [], desk.answer_bytes - 200  # for the headline
    for line in lines[arguments.offset - 1 : arguments.offset - 1 + arguments.limit]:
        cut = clip(line, desk.answer_bytes // 2)
        remaining -= len(cut.encode(errors="replace")) + 1
        if remaining < 0:
            break
        selected.append(cut)
    last = arguments.offset - 1 + len(selected)
    more = f"; read on with offset={last + 1}" if last < len(lines) else ""
    return "\n".join([f"[{root}/{name}: lines {arguments.offset} to {last} of {len(lines)}{more}]", *selected])


READ_FILE = Tool(
    "read_file",
    "Read a text file. What is too long is cut, and the first line of the answer says where to read on.",
    ReadFile,
    _read_file,
)
