"""Jinja for this room: Markdown with every name given or an error."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Filters = Mapping[str, Callable[..., str]]


def render(folder: Path, template: str, filters: Filters | None = None, **given: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown, no HTML; `cell` escapes what comes from outside
    )
    environment.filters.update(filters or {})
    return environment.get_template(template).render(given)


def cell(text: object, longest: int = 100) -> str:
    """Foreign text in one table cell: one line, cut to `longest` characters, without marks that Markdown would read."""
    line = " ".join(str(text).split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return re.sub(r"([\\`*\[\]<|])", r"\\\1", line)
