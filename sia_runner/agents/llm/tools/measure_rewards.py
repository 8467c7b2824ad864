"""Roll the draft out a few times and see what training its model promises."""

from sia_runner.agents.llm.desk import Desk
from sia_runner.agents.llm.draft import Refused, digest
from sia_runner.agents.llm.tools.base import Arguments, Tool
from sia_runner.agents.protocol import Rewards


class MeasureRewards(Arguments):
    pass


def _run(desk: Desk, given: MeasureRewards) -> str:
    del given
    mark = digest(desk.draft.files)
    if mark in desk.measured:
        return told(desk.measured[mark])
    if desk.draft.changed and not desk.trials:
        raise Refused("no trials are left; only the harness that you started from can be measured without one")
    if fault := desk.draft.fault():
        raise Refused(f"not measured, and no trial used: {fault}")
    desk.trials -= desk.draft.changed
    desk.measured[mark] = desk.workbench.measure(desk.draft.files)
    return told(desk.measured[mark])


def told(found: Rewards) -> str:
    """Statistics, what the rules make of them, and what each algorithm would take."""
    lines = [", ".join(f"{name} {value:.3g}" for name, value in found.shape.items())]
    lines.append(f"by the rules: {found.why}")
    lines += [f"- {name}: not possible now: {reason}" for name, reason in found.refused.items()]
    for name, minutes in found.minutes.items():
        if name not in found.refused:
            lines.append(f"- {name}: " + ("time not known" if minutes is None else f"about {minutes:.3g} minutes"))
    return "\n".join(lines)


TOOL = Tool(
    "measure_rewards",
    "Roll the draft out on a few questions kept for training, four times each, and see the statistics of the rewards "
    "(n rollouts in groups of one question each; shares are of rollouts, calls, tokens and seconds are per rollout), "
    "the algorithm that the rules would take, and how long training would last. A changed draft uses one trial.",
    MeasureRewards,
    _run,
)
