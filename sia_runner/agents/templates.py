"""Renders Markdown templates with Jinja; a missing name is an error."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Filters = Mapping[str, Callable[..., str]]


def render_markdown(folder: Path, template: str, filters: Filters | None = None, **values: Any) -> str:
    """Render `template` of `folder` with `values`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown, no HTML; `table_cell` escapes what comes from outside
    )
    environment.filters.update(filters or {})
    return environment.get_template(template).render(values)


def table_cell(text: object, longest: int = 100) -> str:
    """Return foreign text for a table cell: one line of at most `longest` characters, with Markdown escaped."""
    line = " ".join(str(text).split())
    line = line if len(line) <= longest else line[: longest - 1] + "…"
    return re.sub(r"([\\`*\[\]<|])", r"\\\1", line)
