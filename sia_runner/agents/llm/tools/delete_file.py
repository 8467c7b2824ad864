"""Deletes a file of the harness."""

from pydantic import Field

from sia_runner.agents.llm import paths
from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.tools.base import Arguments, Tool


class DeleteFile(Arguments):
    """The arguments of `delete_file`."""

    path: str = Field(description="harness/...")


def _delete_file(desk: Desk, arguments: DeleteFile) -> str:
    name = paths.writable(arguments.path)
    desk.text("harness", name)
    desk.draft.delete(name)
    return f"harness/{name} is deleted"


DELETE_FILE = Tool("delete_file", "Delete a file of the harness.", DeleteFile, _delete_file)
