"""The tools of the loop, one module each."""

from sia_runner.agents.llm.tools import (
    delete_file,
    edit_file,
    list_files,
    read_file,
    search,
    stop,
    submit,
    try_harness,
    write_file,
)
from sia_runner.agents.llm.tools.base import Tool

SUBMIT = submit.TOOL.name


def offered(*, first: bool, trials: int) -> dict[str, Tool]:
    """By name. Without trials there is nothing to try with; the first harness cannot be `stop`."""
    tools = [module.TOOL for module in (list_files, read_file, search, write_file, edit_file, delete_file)]
    tools += [try_harness.TOOL] if trials else []
    tools += [submit.TOOL] if first else [submit.TOOL, stop.TOOL]
    return {tool.name: tool for tool in tools}
