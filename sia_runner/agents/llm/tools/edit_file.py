"""One exact replacement in a file of the harness."""

from pydantic import Field

from sia_runner.agents.llm import paths
from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.draft import Refused
from sia_runner.agents.llm.tools.base import Arguments, Tool
from sia_runner.agents.llm.tools.write_file import written


class EditFile(Arguments):
    path: str = Field(description="harness/...")
    old: str = Field(
        min_length=1, description="text that occurs exactly once in the file, spaces and newlines included"
    )
    new: str = Field(description="what stands there afterwards")


def _run(desk: Desk, given: EditFile) -> str:
    name = paths.writable(given.path)
    text = desk.text("harness", name)
    count = _occurrences(text, given.old)
    if count != 1:
        found = "does not occur" if count == 0 else "occurs more than once"
        raise Refused(f"edit_file: `old` {found} in harness/{name}; nothing was changed")
    edited = text.replace(given.old, given.new)
    desk.draft.write(name, edited)
    return written(name, edited)


def _occurrences(text: str, wanted: str) -> int:
    """0, 1, or 2 for more. Overlapping ones count: which of them is meant cannot be known."""
    first = text.find(wanted)
    if first < 0:
        return 0
    return 1 if text.find(wanted, first + 1) < 0 else 2


TOOL = Tool("edit_file", "Replace a text that occurs exactly once in a file of the harness.", EditFile, _run)
