"""Jinja templates of this proposer, with every name given or an error."""

import re
from pathlib import Path
from typing import Any

_PROMPTS = Path(__file__).parent / "prompts"


def cell(text: object) -> str:
    """Foreign text in one line, cut, without marks that Markdown would read."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*\[\]<|])", r"\\\1", line if len(line) <= 200 else f"{line[:199]}…")


def render(template: str, **given: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PROMPTS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown for a model; nothing here is HTML
    )
    return environment.get_template(template).render(given)
