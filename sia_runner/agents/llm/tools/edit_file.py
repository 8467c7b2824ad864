"""Makes one exact replacement in a file of the harness."""

from pydantic import Field

from sia_runner.agents.llm import paths
from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.draft import Refused
from sia_runner.agents.llm.tools.base import Arguments, Tool
from sia_runner.agents.llm.tools.write_file import written


class EditFile(Arguments):
    """The arguments of `edit_file`."""

    path: str = Field(description="harness/...")
    old: str = Field(
        min_length=1, description="text that occurs exactly once in the file, spaces and newlines included"
    )
    new: str = Field(description="what stands there afterwards")


def _edit_file(desk: Desk, arguments: EditFile) -> str:
    name = paths.writable(arguments.path)
    text = desk.text("harness", name)
    count = _occurrences(text, arguments.old)
    if count != 1:
        problem = "does not occur" if count == 0 else "occurs more than once"
        raise Refused(f"edit_file: `old` {problem} in harness/{name}; nothing was changed")
    edited = text.replace(arguments.old, arguments.new)
    desk.draft.write(name, edited)
    return written(name, edited)


def _occurrences(text: str, part: str) -> int:
    """Return 0, 1, or 2 for more. Overlapping ones count: it is unclear which of them is meant."""
    first = text.find(part)
    if first < 0:
        return 0
    return 1 if text.find(part, first + 1) < 0 else 2


EDIT_FILE = Tool("edit_file", "Replace a text that occurs exactly once in a file of the harness.", EditFile, _edit_file)
