"""Lists names and sizes of files."""

from pydantic import Field

from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.tools.base import Arguments, Tool

_MOST = 400


class ListFiles(Arguments):
    """The arguments of `list_files`."""

    folder: str = Field("", description="evidence, harness, or a folder in one of them; empty: both")


def _list_files(desk: Desk, arguments: ListFiles) -> str:
    files = desk.under(arguments.folder)
    lines = [f"{path}  {len(text.encode(errors='replace'))} bytes" for path, text in files.items()]
    more = [f"… and {len(lines) - _MOST} more; name a folder"] if len(lines) > _MOST else []
    return "\n".join(lines[:_MOST] + more)


LIST_FILES = Tool("list_files", "List the files of evidence/ and harness/ with their sizes.", ListFiles, _list_files)
