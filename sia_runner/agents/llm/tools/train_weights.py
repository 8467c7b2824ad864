"""Proposes a weights update, with the harness as it is or with the changed draft, and ends the loop."""

from pydantic import Field

from sia_runner.agents.llm.desk import Desk, Submitted
from sia_runner.agents.llm.draft import Refused
from sia_runner.agents.llm.tools.base import Tool
from sia_runner.agents.llm.tools.submit import Submit, line, text


class TrainWeights(Submit):
    """The arguments of `train_weights`."""

    algorithm: str = Field("", description="what to train with; empty: what the rules take for the measured rewards")


def _train_weights(desk: Desk, arguments: TrainWeights) -> str:
    algorithms = desk.weights.algorithms if desk.weights else {}
    if arguments.algorithm and arguments.algorithm not in algorithms:
        raise Refused(f"there is no algorithm of that name; there are: {', '.join(algorithms)}")
    if fault := desk.draft.fault():
        raise Refused(f"not accepted: {fault}")
    rewards = desk.workbench.measure(desk.draft.files)
    algorithm = arguments.algorithm or rewards.suggested
    if not algorithm:
        raise Refused(f"the rules take no algorithm: {rewards.why}")
    if reason := rewards.refused.get(algorithm):
        raise Refused(f"{algorithm} is not possible now: {reason}")
    desk.decision = Submitted(
        line(arguments.title), text(arguments.rationale), text(arguments.expected_effect), algorithm
    )
    return "accepted"


TRAIN_WEIGHTS = Tool(
    "train_weights",
    "Propose to train the model's weights on rollouts of the draft in harness/, which may be unchanged. This ends your "
    "work, in place of submit.",
    TrainWeights,
    _train_weights,
)
