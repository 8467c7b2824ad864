"""Propose a weights update: with the harness as it is, or together with the changed draft. Ends the loop."""

from pydantic import Field

from sia_runner.agents.llm.desk import Desk, Submitted
from sia_runner.agents.llm.draft import Refused
from sia_runner.agents.llm.tools.base import Tool
from sia_runner.agents.llm.tools.submit import Submit, line, text


class TrainWeights(Submit):
    algorithm: str = Field("", description="what to train with; empty: what the rules take for the measured rewards")


def _run(desk: Desk, given: TrainWeights) -> str:
    algorithms = desk.weights.algorithms if desk.weights else {}
    if given.algorithm and given.algorithm not in algorithms:
        raise Refused(f"there is no algorithm of that name; there are: {', '.join(algorithms)}")
    if fault := desk.draft.fault():
        raise Refused(f"not accepted: {fault}")
    found = desk.workbench.measure(desk.draft.files)
    algorithm = given.algorithm or found.suggested
    if not algorithm:
        raise Refused(f"the rules take no algorithm: {found.why}")
    if reason := found.refused.get(algorithm):
        raise Refused(f"{algorithm} is not possible now: {reason}")
    desk.decision = Submitted(line(given.title), text(given.rationale), text(given.expected_effect), algorithm)
    return "accepted"


TOOL = Tool(
    "train_weights",
    "Propose to train the model's weights on rollouts of the draft in harness/, which may be unchanged. This ends your "
    "work, in place of submit.",
    TrainWeights,
    _run,
)
