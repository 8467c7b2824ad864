"""Rolls the draft out a few times to estimate what training would gain."""

from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.draft import Refused, digest
from sia_runner.agents.llm.tools.base import Arguments, Tool
from sia_runner.agents.protocol import Rewards


class MeasureRewards(Arguments):
    """The arguments of `measure_rewards`: none."""


def _measure_rewards(desk: Desk, arguments: MeasureRewards) -> str:
    del arguments
    draft_digest = digest(desk.draft.files)
    if draft_digest in desk.measured:
        return told(desk.measured[draft_digest])
    if desk.draft.changed and not desk.trials:
        raise Refused("no trials are left; only the harness that you started from can be measured without one")
    if fault := desk.draft.fault():
        raise Refused(f"not measured, and no trial used: {fault}")
    desk.trials -= desk.draft.changed
    desk.measured[draft_digest] = desk.workbench.measure(desk.draft.files)
    return told(desk.measured[draft_digest])


def told(rewards: Rewards) -> str:
    """Return the statistics, the choice of the rules, and the minutes of each algorithm, as text."""
    lines = [", ".join(f"{name} {value:.3g}" for name, value in rewards.shape.items())]
    lines.append(f"by the rules: {rewards.why}")
    lines += [f"- {name}: not possible now: {reason}" for name, reason in rewards.refused.items()]
    for name, minutes in rewards.minutes.items():
        if name not in rewards.refused:
            lines.append(f"- {name}: " + ("time not known" if minutes is None else f"about {minutes:.3g} minutes"))
    return "\n".join(lines)


MEASURE_REWARDS = Tool(
    "measure_rewards",
    "Roll the draft out on a few questions kept for training, four times each, and see the statistics of the rewards "
    "(n rollouts in groups of one question each; shares are of rollouts, calls, tokens and seconds are per rollout), "
    "the algorithm that the rules would take, and how long training would last. A changed draft uses one trial.",
    MeasureRewards,
    _measure_rewards,
)
