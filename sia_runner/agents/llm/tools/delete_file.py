"""Take a file out of the harness."""

from pydantic import Field

from sia_runner.agents.llm import paths
from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.tools.base import Arguments, Tool


class DeleteFile(Arguments):
    path: str = Field(description="harness/...")


def _run(desk: Desk, given: DeleteFile) -> str:
    name = paths.writable(given.path)
    desk.text("harness", name)
    desk.draft.delete(name)
    return f"harness/{name} is deleted"


TOOL = Tool("delete_file", "Delete a file of the harness.", DeleteFile, _run)
