"""The HTML page: one file without scripts, links or anything to fetch.

Autoescape is on, and a content security policy forbids all but the page's own style sheet, should something slip
through.
"""

import base64
import hashlib
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sia_runner import __version__
from sia_runner.ground.plaintext import cut, plain
from sia_runner.report import charts, differences, paper, tested
from sia_runner.report.captions import published, standings
from sia_runner.report.changes import accepted, kinds
from sia_runner.report.runs import Ran
from sia_runner.report.sections import Section
from sia_runner.report.svg import swatch

_TEMPLATES = Path(__file__).parent / "templates"
_TEXT_LIMIT = 64 << 10  # bytes of one text


def render(sections: Sequence[Section], runs: Sequence[Ran], command: Sequence[str]) -> str:
    """Return the page. `command`: the arguments that made this report."""
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template("report.html")
        .render(
            sections=sections,
            runs=runs,
            troubled=[run for run in runs if run.status != "completed" or run.faults],
            command=command,
            style=Markup(style),  # noqa: S704 - our own file
            style_sha256=digest,
            versions=versions(runs),
            python=sys.version.split()[0],
            version=__version__,
            now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
    )


def versions(runs: Sequence[Ran]) -> dict[str, list[str]]:
    """Return package -> its versions in these runs, from their lock files."""
    versions_by_package: dict[str, set[str]] = {}
    for run in runs:
        packages = run.lock.get("packages")
        named = {key: run.lock.get(key) for key in ("sia_runner", "git", "python")}
        for name, version in (named | (packages if isinstance(packages, dict) else {})).items():
            if isinstance(version, str):
                versions_by_package.setdefault(str(name), set()).add(version)
    return {name: sorted(of) for name, of in versions_by_package.items()}


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_sanitize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": paper.figure, "gained": paper.gained, "ends": paper.ends, "interval": interval}
    environment.filters |= {"p": p_value, "number": number, "usd": usd, "span": span}
    environment.globals |= {
        "accepted": accepted,
        "kinds": kinds,
        "over_seeds": lambda group: _svg(charts.over_seeds(group)),
        "by_seed": lambda group: [(name, _svg(chart)) for name, chart in charts.by_seed(group)],
        "on_test": lambda group: _svg(tested.on_test(group)),
        "differences": lambda section: _svg(differences.differences(section.group, section.contrasts)),
        "curve": lambda values, name: _svg(charts.curve(values, name)),
        "swatch": lambda arm, filled=True: _svg(swatch(arm, filled)),
        "columns": paper.columns,
        "percent": lambda metric: paper.scale(metric)[0] == 100,
        "cells": paper.cells,
        "published": published,
        "standings": standings,
    }
    return environment


def _sanitize(value: Any) -> Any:
    """Bound every text and drop its control characters, except for Markup, which this package made itself."""
    return plain(cut(value, _TEXT_LIMIT)) if isinstance(value, str) and not isinstance(value, Markup) else value


def _svg(text: str) -> Markup:
    return Markup(text)  # noqa: S704 - built by ElementTree, which escapes every text in it


def interval(score: Mapping[str, Any] | None, metric: str) -> str:
    """Format a score: ``42.3 [39.1, 45.5] (n=913)``."""
    if not score:
        return "–"
    both = paper.ends(score["ci95"], metric)
    return f"{paper.figure(score['value'], metric)}{both and f' {both}'} (n={score['n']})"


def p_value(value: float | None) -> str:
    """Format a p-value: ``.032``, ``<.001``."""
    return "–" if value is None else "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def number(value: float | None, spec: str = ",.0f", none: str = "–") -> str:
    """Format a number, or return `none` for None."""
    return none if value is None else format(value, spec)


def usd(value: float | None) -> str:
    """Format dollars."""
    return "not known" if value is None else "0" if value == 0 else f"{value:,.4f}"


def span(seconds: float | None) -> str:
    """Format seconds: ``42.0 s``, ``12.5 min``, ``3.2 h``."""
    if seconds is None:
        return "–"
    if abs(seconds) < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if abs(seconds) < 7200 else f"{seconds / 3600:.1f} h"
