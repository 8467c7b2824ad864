"""Renders the templates of the language-model proposer."""

from pathlib import Path
from typing import Any

from sia_runner.agents.templates import render_markdown, table_cell

_PROMPTS = Path(__file__).parent / "prompts" / "llm"


def render(template: str, **values: Any) -> str:
    """Render a template of this proposer."""
    return render_markdown(_PROMPTS, template, **values)


def cell(text: object) -> str:
    """Return foreign text for a table cell, at most 200 characters."""
    return table_cell(text, 200)
