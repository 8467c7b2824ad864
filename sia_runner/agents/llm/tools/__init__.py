"""The tools that the model may call in one proposal."""

from sia_runner.agents.llm.tools.base import Tool
from sia_runner.agents.llm.tools.delete_file import DELETE_FILE
from sia_runner.agents.llm.tools.edit_file import EDIT_FILE
from sia_runner.agents.llm.tools.list_files import LIST_FILES
from sia_runner.agents.llm.tools.measure_rewards import MEASURE_REWARDS
from sia_runner.agents.llm.tools.read_file import READ_FILE
from sia_runner.agents.llm.tools.search import SEARCH
from sia_runner.agents.llm.tools.stop import STOP
from sia_runner.agents.llm.tools.submit import SUBMIT
from sia_runner.agents.llm.tools.train_weights import TRAIN_WEIGHTS
from sia_runner.agents.llm.tools.try_harness import TRY_HARNESS
from sia_runner.agents.llm.tools.write_file import WRITE_FILE

ENDING = (SUBMIT.name, TRAIN_WEIGHTS.name)  # tools that end a proposal when they are accepted


def offered(*, first: bool, trials: int, weights: bool) -> dict[str, Tool]:
    """Return the available tools by name.

    `try_harness` needs trials, the weights tools need `weights`, and `stop` is not available for the first harness.
    """
    tools = [LIST_FILES, READ_FILE, SEARCH, WRITE_FILE, EDIT_FILE, DELETE_FILE]
    tools += [TRY_HARNESS] if trials else []
    tools += [MEASURE_REWARDS, TRAIN_WEIGHTS] if weights else []
    tools += [SUBMIT] if first else [SUBMIT, STOP]
    return {tool.name: tool for tool in tools}
