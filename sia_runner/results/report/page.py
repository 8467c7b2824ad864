"""The HTML page: one file without scripts, links or anything to fetch, escaped, with a content security policy."""

import base64
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sia_runner import __version__
from sia_runner.records import Json, Score
from sia_runner.results.outputs import FileChange, diff_harnesses
from sia_runner.results.report import charts, tables
from sia_runner.results.report.analysis import ComparableGroup, ReportSection
from sia_runner.results.report.runs import ReportedRun
from sia_runner.results.report.svg import draw_swatch
from sia_runner.results.run import finished_curves
from sia_runner.store.files import as_dict, read_text
from sia_runner.store.generations import GenerationRecord
from sia_runner.text import strip_control_characters, truncate_bytes

_MAX_CHANGES = 40  # changes of one group
_MAX_CHANGED_FILES = 12  # of one change
MAX_LINES, MAX_COLUMNS = 160, 240  # lines of one file; characters of one line
_MAX_NOTES_BYTES = 4_000  # of the proposer's notes on a change


def _accepted_changes(group: ComparableGroup) -> tuple[list[Json], int]:
    """Return the first accepted candidates and the number of all. The first harness of a run is no change."""
    pairs = [(run, g) for run in group.runs for g in run.generations if g.status == "accepted" and g.parent is not None]
    return [_accepted_change(run, g) for run, g in pairs[:_MAX_CHANGES]], len(pairs)


def _accepted_change(run: ReportedRun, g: GenerationRecord) -> Json:
    files = diff_harnesses(run.path, g.parent, g.n)
    notes = read_text(run.path, f"gen_{g.n}/improvement.md", 4 * _MAX_NOTES_BYTES) or g.rationale
    shown: list[FileChange] = []
    for change in files[:_MAX_CHANGED_FILES]:
        lines = (line if len(line) <= MAX_COLUMNS else f"{line[:MAX_COLUMNS]}…" for line in change.lines[:MAX_LINES])
        shown.append(replace(change, lines=tuple(lines)))
    return {
        "run": run,
        "generation": g,
        "before": next((other.val for other in run.generations if other.n == g.parent), None),  # val of its parent
        "words": truncate_bytes(notes, _MAX_NOTES_BYTES),
        "files": shown,
        "left_out": {change.path: max(0, len(change.lines) - MAX_LINES) for change in files},
        "more_files": max(0, len(files) - _MAX_CHANGED_FILES),
        "curves": finished_curves(g.training) if g.training else {},
    }


def _outcome_kinds(group: ComparableGroup) -> Iterator[tuple[str, str, int, dict[str, tuple[int, int]]]]:
    """Yield for each arm: label, split, number of runs, and outcome kind -> (first harness, best candidate)."""
    for side in group.sides:
        for split, counts_of_run in (("test", _kinds_on_test), ("val", _kinds_on_val)):
            each = [both for run in side.runs if (both := counts_of_run(run))]
            if each:
                names = dict.fromkeys(kind for both in each for counted in both for kind in counted)
                old, new = ({kind: sum(both[at].get(kind, 0) for both in each) for kind in names} for at in (0, 1))
                yield side.label, split, len(each), {kind: (old[kind], new[kind]) for kind in names}
                break


def _kinds_on_test(run: ReportedRun) -> tuple[Mapping[str, int], Mapping[str, int]] | None:
    first, best = (run.tests.get(n or 0) for n in (run.first, run.best))
    return (first.outcomes, best.outcomes) if first and best else None


def _kinds_on_val(run: ReportedRun) -> tuple[Mapping[str, int], Mapping[str, int]] | None:
    of = {g.n: g.outcomes for g in run.generations if g.outcomes}
    return (next(iter(of.values())), of[run.best]) if run.best in of else None


_TEMPLATES = Path(__file__).parent / "templates"
_TEXT_LIMIT = 64 << 10  # bytes of one text


def render_page(sections: Sequence[ReportSection], runs: Sequence[ReportedRun], command: Sequence[str]) -> str:
    """Return the page. `command`: the arguments that made this report."""
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    template = _template_environment().get_template("report.html")
    return template.render(
        sections=sections,
        table=tables.paper_table(sections),
        runs=runs,
        troubled=[run for run in runs if run.status != "completed" or run.faults],
        command=command,
        style=Markup(style),  # noqa: S704 - our own file
        style_sha256=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        versions=_package_versions(runs),
        python=sys.version.split()[0],
        version=__version__,
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _package_versions(runs: Sequence[ReportedRun]) -> dict[str, list[str]]:
    versions_by_package: dict[str, set[str]] = {}
    for run in runs:
        named = {key: run.lock.get(key) for key in ("sia_runner", "git", "python")} | as_dict(run.lock.get("packages"))
        for name, version in named.items():
            if isinstance(version, str):
                versions_by_package.setdefault(name, set()).add(version)
    return {name: sorted(of) for name, of in versions_by_package.items()}


def _template_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, finalize=_sanitize,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "figure": tables.format_figure,
        "ends": tables.format_interval,
        "interval": format_score,
        "p": format_p_value,
        "number": _format_number,
        "usd": _format_usd,
        "span": format_seconds,
    }
    environment.globals |= {
        "accepted": _accepted_changes,
        "kinds": _outcome_kinds,
        "over_seeds": charts.chart_over_seeds,
        "by_seed": charts.charts_by_seed,
        "on_test": charts.chart_test_scores,
        "differences": charts.chart_differences,
        "curve": charts.chart_curve,
        "swatch": draw_swatch,
        "columns": tables.column_heads,
        "percent": tables.is_percent,
        "cells": tables.row_cells,
        "published": tables.published_captions,
        "leaderboards": tables.leaderboard_captions,
    }
    return environment


def _sanitize(value: Any) -> Any:
    """Bound every text and drop its control characters, except for Markup, which this package made itself."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return strip_control_characters(truncate_bytes(value, _TEXT_LIMIT))
    return value


def format_score(score: Score | None, metric: str) -> str:
    """Format a score: ``42.3 [39.1, 45.5] (n=913)``."""
    if not score:
        return "–"
    figure, interval = tables.format_figure(score.value, metric), tables.format_interval(score.ci95, metric)
    return f"{figure} {interval} (n={score.n})"


def format_p_value(value: float | None) -> str:
    """Format a p-value: ``.032``, ``<.001``."""
    return "–" if value is None else "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def _format_number(value: float | None, spec: str = ",.0f") -> str:
    return "–" if value is None else format(value, spec)


def _format_usd(value: float | None) -> str:
    return "not known" if value is None else "0" if value == 0 else f"{value:,.4f}"


def format_seconds(seconds: float | None) -> str:
    """Format seconds: ``42.0 s``, ``12.5 min``, ``3.2 h``."""
    if seconds is None:
        return "–"
    if abs(seconds) < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if abs(seconds) < 7200 else f"{seconds / 3600:.1f} h"
