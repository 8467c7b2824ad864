"""A file of the harness, written whole."""

from pydantic import Field

from sia_runner.agents.llm import paths
from sia_runner.agents.llm.apart import syntax_fault
from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.tools.base import Arguments, Tool


class WriteFile(Arguments):
    path: str = Field(description="harness/...")
    content: str = Field(description="the whole new text of the file")


def _run(desk: Desk, given: WriteFile) -> str:
    name = paths.writable(given.path)
    desk.draft.write(name, given.content)
    return written(name, given.content)


def written(name: str, text: str) -> str:
    """What to say of a file that was just written: a syntax error is cheapest to mend now."""
    fault = syntax_fault({name: text})
    count = len(text.splitlines())
    return f"harness/{name} has {count} lines now" + (f". It does not parse: {fault}" if fault else "")


TOOL = Tool("write_file", "Write a file of the harness whole; it is replaced if it is there.", WriteFile, _run)
