"""Markdown from templates and from numbers. What comes from outside is escaped."""

from pathlib import Path
from typing import Any

from sia_runner.agents.memory import standard_error
from sia_runner.agents.templates import cell, render
from sia_runner.records import Score

_PROMPTS = Path(__file__).parent / "prompts"
NEW = object()  # stands for the former value of a constant that was not there before


def render_template(template: str, **given: Any) -> str:
    return render(_PROMPTS, template, {"cell": cell, "value": _value}, **given)


def _value(value: Any) -> str:
    return "–" if value is NEW else f"`{value!r}`"


def plus_minus(value: float, n: int) -> str:
    error = standard_error(value, n)
    return f"{value:.3f} ± {error:.3f}" if error else f"{value:.4g}"


def interval(val: Score | None) -> str:
    return "–" if val is None else f"{val.value:.3f} ({val.ci95[0]:.3f} to {val.ci95[1]:.3f})"
