"""Parts that prompts of several proposers share: templates, formats, directions for parallel proposals."""

import math
import re
from pathlib import Path
from typing import Any

from sia_runner.proposers.protocol import Brief, ProposerContext

_PROMPTS = Path(__file__).parent / "prompts"


def render_prompt(template: str, **values: Any) -> str:
    """Render a template of the folder `prompts`; every name it uses must be among `values`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PROMPTS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown, no HTML; `table_cell` escapes what comes from outside
    )
    environment.filters["cell"] = table_cell
    return environment.get_template(template).render(values, plus_minus=plus_minus)


def task_facts(context: ProposerContext, brief: Brief) -> dict[str, Any]:
    """Return the values that the prompts of all models have in common."""
    return {
        "first": brief.first,
        "task": context.task_name,
        "n": brief.n,
        "max_gen": brief.max_gen,
        "higher_is_better": brief.higher_is_better,
        "entry": context.entry,
        "submission": context.submission,
        "seconds": f"{context.limits_seconds:.0f}",
        "calls_model": context.calls_model,
        "sibling": brief.sibling,
        "direction": direction_for(brief, context.calls_model),
        "partner": brief.partner,
        "notes": [table_cell(text, len(text)) for text in brief.directions],
    }


def table_cell(text: object, longest: int = 100) -> str:
    """Return foreign text for a table cell: one line of at most `longest` characters, with Markdown escaped."""
    line = " ".join(str(text).split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return re.sub(r"([\\`*\[\]<|])", r"\\\1", line)


def standard_error(value: float, n: int) -> float:
    """Return the standard error of a mean of `n` values in [0, 1] (binomial bound); 0 on another scale."""
    return math.sqrt(value * (1 - value) / n) if n > 0 and 0 <= value <= 1 else 0.0


def plus_minus(value: float, n: int) -> str:
    """Format a value with its standard error."""
    error = standard_error(value, n)
    return f"{value:.3f} ± {error:.3f}" if error else f"{value:.4g}"


def describe_parent(brief: Brief, start: str) -> str:
    """Return a sentence that begins with `start` and names the parent and the generation that must be beaten."""
    if brief.parent == brief.incumbent:
        return f"{start} generation {brief.parent}, the best so far."
    best = f"; the best so far, which must be beaten, is generation {brief.incumbent}" if brief.incumbent else ""
    return f"{start} generation {brief.parent}{best}."


def direction_for(brief: Brief, calls_model: bool) -> str:
    """Return the direction of this sibling; empty for the first one. It changes with the generation."""
    if not brief.sibling:
        return ""
    file = _PROMPTS / f"directions_{'with' if calls_model else 'without'}_model.txt"
    directions = file.read_text(encoding="utf-8").splitlines()
    return directions[(brief.sibling + brief.n - 2) % len(directions)]
