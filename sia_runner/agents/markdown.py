"""Markdown from templates and from numbers. What comes from outside is escaped."""

import re
from pathlib import Path
from typing import Any

from sia_runner.agents.memory import standard_error
from sia_runner.records import Score

_PROMPTS = Path(__file__).parent / "prompts"
_CELL = 100  # characters
NEW = object()  # stands for the former value of a constant that was not there before


def render_template(template: str, **given: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PROMPTS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown; `cell` escapes what comes from outside
    )
    environment.filters.update(cell=_cell, value=_value)
    return environment.get_template(template).render(given)


def _cell(text: object) -> str:
    """Foreign text in one table cell: one line, cut, without marks that Markdown would read."""
    line = " ".join(str(text).split())
    line = line if len(line) <= _CELL else line[: _CELL - 1] + "…"
    return re.sub(r"([\\`*\[\]<|])", r"\\\1", line)


def _value(value: Any) -> str:
    return "–" if value is NEW else f"`{value!r}`"


def plus_minus(value: float, n: int) -> str:
    error = standard_error(value, n)
    return f"{value:.3f} ± {error:.3f}" if error else f"{value:.4g}"


def interval(val: Score | None) -> str:
    return "–" if val is None else f"{val.value:.3f} ({val.ci95[0]:.3f} to {val.ci95[1]:.3f})"
