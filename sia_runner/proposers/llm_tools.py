"""Defines the tools that try a harness, measure rewards or end the proposal, and lists all tools."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from sia_runner.proposers.llm_file_tools import (
    DELETE_FILE,
    EDIT_FILE,
    LIST_FILES,
    READ_FILE,
    SEARCH,
    WRITE_FILE,
    Tool,
    ToolArguments,
)
from sia_runner.proposers.llm_workspace import (
    ProposalWorkspace,
    StopDecision,
    Submission,
    ToolRefused,
    TriedHarness,
    clip_text,
    digest_of_files,
    printable,
)
from sia_runner.proposers.prompting import plus_minus
from sia_runner.proposers.protocol import MeasuredRewards
from sia_runner.records import Trial

_EXAMPLE_BYTES = 1500  # bytes of one failure
_MAX_EXAMPLES = 6


class TryHarnessArguments(ToolArguments):
    """The arguments of `try_harness`: none."""


def _try_harness(desk: ProposalWorkspace, arguments: TryHarnessArguments) -> str:
    del arguments
    earlier = desk.earlier_trial()
    if earlier:
        return f"These very files were tried before; not run again.\n{_describe_trial(desk, earlier.trial)}"
    if not desk.trials:
        raise ToolRefused("no trials are left; submit the draft, or put back what was tried")
    fault = desk.draft.fault()
    if fault:
        raise ToolRefused(f"not tried, and no trial used: {fault}")
    files = desk.draft.files
    (trial,) = desk.workbench.try_out([files], share=1.0, questions=desk.questions)
    desk.trials -= 1
    desk.tried.append(TriedHarness(digest_of_files(files), trial))
    return _describe_trial(desk, trial)


def _describe_trial(desk: ProposalWorkspace, trial: Trial) -> str:
    """Return a trial as text: figures, then failures, then the program's output."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in trial.outcomes.items())
    parts = [f"failed: {trial.failure}"] if trial.failure else []
    if trial.n:
        value = f"value {plus_minus(trial.value, trial.n)} (standard error) on {trial.n} dev questions"
        before = (
            "" if desk.start_value is None else f"; the harness you started from had {desk.start_value:.3f} on them"
        )
        parts.append(value + before)
    parts.append(f"{trial.seconds:.1f} s; outcomes: {kinds or 'none'}")
    output = clip_text(trial.output, desk.answer_bytes // 4)
    examples = [clip_text(_describe_example(example), _EXAMPLE_BYTES) for example in trial.examples[:_MAX_EXAMPLES]]
    if examples:
        parts.append(
            clip_text(
                "\n".join(["questions that were not fully right, with the right answer:", *examples]),
                desk.answer_bytes // 2,
            )
        )
    if output.strip():
        parts.append(f"the end of what it printed:\n{output}")
    return "\n".join(parts)


def _describe_example(example: Mapping[str, Any]) -> str:
    return json.dumps(dict(example), ensure_ascii=False, default=str)


TRY_HARNESS = Tool(
    "try_harness",
    "Run the draft as it is now on a few dev questions and see its value, its failures with the right answers, and "
    "what it printed. The number of trials is limited.",
    TryHarnessArguments,
    _try_harness,
)


class MeasureRewardsArguments(ToolArguments):
    """The arguments of `measure_rewards`: none."""


def _measure_rewards(desk: ProposalWorkspace, arguments: MeasureRewardsArguments) -> str:
    del arguments
    draft_digest = digest_of_files(desk.draft.files)
    if draft_digest in desk.measured:
        return describe_rewards(desk.measured[draft_digest])
    if desk.draft.changed and not desk.trials:
        raise ToolRefused("no trials are left; only the harness that you started from can be measured without one")
    if fault := desk.draft.fault():
        raise ToolRefused(f"not measured, and no trial used: {fault}")
    desk.trials -= desk.draft.changed
    desk.measured[draft_digest] = desk.workbench.measure(desk.draft.files)
    return describe_rewards(desk.measured[draft_digest])


def describe_rewards(rewards: MeasuredRewards) -> str:
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
    MeasureRewardsArguments,
    _measure_rewards,
)


_TITLE_CHARACTERS = 100  # characters
_TEXT_BYTES = 4000  # bytes


class SubmitArguments(ToolArguments):
    """The arguments of `submit`."""

    title: str = Field(min_length=1, description="the change in one short line")
    rationale: str = Field(min_length=1, description="what fails now, why, and how the change mends the cause")
    expected_effect: str = Field(
        min_length=1, description="which questions should change, by how much, and what could get worse"
    )


def _submit(desk: ProposalWorkspace, arguments: SubmitArguments) -> str:
    if not desk.first and not desk.draft.changed:
        instead = "change something, train_weights, or stop" if desk.weights else "change something, or stop"
        raise ToolRefused(f"the draft is the parent's harness unchanged, which can only tie; {instead}")
    fate = desk.earlier.get(digest_of_files(desk.draft.files))
    if fate:
        raise ToolRefused(f"these very files were proposed before: {fate}; val is not there to be asked twice")
    fault = desk.draft.fault()
    if fault:
        raise ToolRefused(f"not accepted: {fault}")
    desk.decision = Submission(
        title_line(arguments.title), body_text(arguments.rationale), body_text(arguments.expected_effect)
    )
    return "accepted"


def title_line(message: str) -> str:
    """Return the text as a title: one line, bounded."""
    single = " ".join(printable(message).split()) or "untitled"
    return single if len(single) <= _TITLE_CHARACTERS else f"{single[: _TITLE_CHARACTERS - 1]}…"


def body_text(message: str) -> str:
    """Return the text printable and bounded."""
    return clip_text(printable(message), _TEXT_BYTES)


SUBMIT = Tool(
    "submit",
    "Propose the draft in harness/ as this generation's candidate. This ends your work.",
    SubmitArguments,
    _submit,
)


class TrainWeightsArguments(SubmitArguments):
    """The arguments of `train_weights`."""

    algorithm: str = Field("", description="what to train with; empty: what the rules take for the measured rewards")


def _train_weights(desk: ProposalWorkspace, arguments: TrainWeightsArguments) -> str:
    algorithms = desk.weights.algorithms if desk.weights else {}
    if arguments.algorithm and arguments.algorithm not in algorithms:
        raise ToolRefused(f"there is no algorithm of that name; there are: {', '.join(algorithms)}")
    if fault := desk.draft.fault():
        raise ToolRefused(f"not accepted: {fault}")
    rewards = desk.workbench.measure(desk.draft.files)
    algorithm = arguments.algorithm or rewards.suggested
    if not algorithm:
        raise ToolRefused(f"the rules take no algorithm: {rewards.why}")
    if reason := rewards.refused.get(algorithm):
        raise ToolRefused(f"{algorithm} is not possible now: {reason}")
    desk.decision = Submission(
        title_line(arguments.title), body_text(arguments.rationale), body_text(arguments.expected_effect), algorithm
    )
    return "accepted"


TRAIN_WEIGHTS = Tool(
    "train_weights",
    "Propose to train the model's weights on rollouts of the draft in harness/, which may be unchanged. This ends your "
    "work, in place of submit.",
    TrainWeightsArguments,
    _train_weights,
)


class StopArguments(ToolArguments):
    """The arguments of `stop`."""

    reason: str = Field(min_length=1, description="what was tried, and why nothing more can be gained")


def _stop(desk: ProposalWorkspace, arguments: StopArguments) -> str:
    desk.decision = StopDecision(clip_text(printable(arguments.reason), 4000))
    return "stopped"


STOP = Tool(
    "stop",
    "End the whole experiment's search, because nothing is left that could gain anything. Rarely right.",
    StopArguments,
    _stop,
)


ENDING_TOOLS = (SUBMIT.name, TRAIN_WEIGHTS.name)  # tools that end a proposal when they are accepted


def available_tools(*, first: bool, trials: int, weights: bool) -> dict[str, Tool]:
    """Return the available tools by name.

    `try_harness` needs trials, the weights tools need `weights`, and `stop` is not available for the first harness.
    """
    tools = [LIST_FILES, READ_FILE, SEARCH, WRITE_FILE, EDIT_FILE, DELETE_FILE]
    tools += [TRY_HARNESS] if trials else []
    tools += [MEASURE_REWARDS, TRAIN_WEIGHTS] if weights else []
    tools += [SUBMIT] if first else [SUBMIT, STOP]
    return {tool.name: tool for tool in tools}
