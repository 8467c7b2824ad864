"""Runs the draft on a few dev questions in the sandbox."""

import json
from collections.abc import Mapping
from typing import Any

from sia_runner.agents.llm.desk import Desk, Tried, clip
from sia_runner.agents.llm.draft import Refused, digest
from sia_runner.agents.llm.tools.base import Arguments, Tool
from sia_runner.agents.markdown import plus_minus
from sia_runner.records import Trial

_EXAMPLE = 1500  # bytes of one failure
_EXAMPLES = 6


class TryHarness(Arguments):
    """The arguments of `try_harness`: none."""


def _try_harness(desk: Desk, arguments: TryHarness) -> str:
    del arguments
    earlier = desk.earlier_trial()
    if earlier:
        return f"These very files were tried before; not run again.\n{_told(desk, earlier.trial)}"
    if not desk.trials:
        raise Refused("no trials are left; submit the draft, or put back what was tried")
    fault = desk.draft.fault()
    if fault:
        raise Refused(f"not tried, and no trial used: {fault}")
    files = desk.draft.files
    (trial,) = desk.workbench.try_out([files], share=1.0, questions=desk.questions)
    desk.trials -= 1
    desk.tried.append(Tried(digest(files), trial))
    return _told(desk, trial)


def _told(desk: Desk, trial: Trial) -> str:
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
    output = clip(trial.output, desk.answer_bytes // 4)
    examples = [clip(_example(example), _EXAMPLE) for example in trial.examples[:_EXAMPLES]]
    if examples:
        parts.append(
            clip(
                "\n".join(["questions that were not fully right, with the right answer:", *examples]),
                desk.answer_bytes // 2,
            )
        )
    if output.strip():
        parts.append(f"the end of what it printed:\n{output}")
    return "\n".join(parts)


def _example(example: Mapping[str, Any]) -> str:
    return json.dumps(dict(example), ensure_ascii=False, default=str)


TRY_HARNESS = Tool(
    "try_harness",
    "Run the draft as it is now on a few dev questions and see its value, its failures with the right answers, and "
    "what it printed. The number of trials is limited.",
    TryHarness,
    _try_harness,
)
