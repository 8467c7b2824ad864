"""The tools of the loop, one module each."""

from sia_runner.agents.llm.tools import (
    delete_file,
    edit_file,
    list_files,
    measure_rewards,
    read_file,
    search,
    stop,
    submit,
    train_weights,
    try_harness,
    write_file,
)
from sia_runner.agents.llm.tools.base import Tool

ENDING = (submit.TOOL.name, train_weights.TOOL.name)  # what ends a proposal unless it is sent back


def offered(*, first: bool, trials: int, weights: bool) -> dict[str, Tool]:
    """By name. Without trials there is nothing to try with; the first harness cannot be `stop`; `weights`: may they be
    trained?"""
    tools = [module.TOOL for module in (list_files, read_file, search, write_file, edit_file, delete_file)]
    tools += [try_harness.TOOL] if trials else []
    tools += [measure_rewards.TOOL, train_weights.TOOL] if weights else []
    tools += [submit.TOOL] if first else [submit.TOOL, stop.TOOL]
    return {tool.name: tool for tool in tools}
