"""Writes a whole file of the harness."""

from pydantic import Field

from sia_runner.agents.llm import paths
from sia_runner.agents.llm.apart import syntax_fault
from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.tools.base import Arguments, Tool


class WriteFile(Arguments):
    """The arguments of `write_file`."""

    path: str = Field(description="harness/...")
    content: str = Field(description="the whole new text of the file")


def _write_file(desk: Desk, arguments: WriteFile) -> str:
    name = paths.writable(arguments.path)
    desk.draft.write(name, arguments.content)
    return written(name, arguments.content)


def written(name: str, text: str) -> str:
    """Return the answer to a write: the file's lines and its syntax error, which is cheapest to mend now."""
    fault = syntax_fault({name: text})
    count = len(text.splitlines())
    return f"harness/{name} has {count} lines now" + (f". It does not parse: {fault}" if fault else "")


WRITE_FILE = Tool(
    "write_file", "Write a file of the harness whole; it is replaced if it is there.", WriteFile, _write_file
)
