"""Writes the instructions for a guest: folders, what a harness is, how it is scored, how to finish."""

from pathlib import Path

from sia_runner.agents.llm import directions
from sia_runner.agents.protocol import Brief, Context
from sia_runner.agents.templates import render_markdown

_PROMPTS = Path(__file__).parent / "prompts" / "guests"


def instructions(context: Context, brief: Brief, *, turns: int, seconds: float) -> str:
    """Return the instructions.

    They still hold the marks `@HARNESS@` and `@EVIDENCE@`: only the sandbox knows those paths.
    """
    return render_markdown(
        _PROMPTS,
        "instructions.md.j2",
        first=brief.evidence is None,
        task=context.task_name,
        n=brief.n,
        max_gen=brief.max_gen,
        start=_start(brief),
        entry=context.entry,
        submission=context.submission,
        seconds=f"{context.limits_seconds:.0f}",
        calls_model=context.calls_model,
        higher_is_better=brief.higher_is_better,
        direction=directions.of(brief, context.calls_model),
        sibling=brief.sibling,
        turns=turns,
        allowed=f"{seconds:.0f}",
    )


def _start(brief: Brief) -> str:
    if brief.evidence is None:
        return "It starts as the task's reference harness."
    if brief.parent is None:
        return "No earlier harness could be scored, so it starts as the task's reference harness again."
    if brief.parent == brief.incumbent:
        return f"It starts as that of generation {brief.parent}, the best so far."
    best = f"; the best so far, which must be beaten, is generation {brief.incumbent}" if brief.incumbent else ""
    return f"It starts as that of generation {brief.parent}{best}."
