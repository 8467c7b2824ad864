"""The report as a W&B Report, through wandb-workspaces: tables as text, charts of the runs that W&B has itself."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from sia_runner.ground.plaintext import cell
from sia_runner.reading.files import json_of
from sia_runner.report import paper
from sia_runner.report.contrasts import Contrast
from sia_runner.report.groups import Group
from sia_runner.report.page import interval, p_value
from sia_runner.report.runs import Ran
from sia_runner.report.sections import Section
from sia_runner.rundir import RunError

_PAIRS = (
    "| seed | difference ± s.e. | lost | won | McNemar p | p (Holm) | verdict |\n|---:|---:|---:|---:|---:|---:|---|"
)
_RUNS = "| run | arm | seed | status | initial, test | best, test |\n|---|---|---:|---|---|---|"
_LISTED = 500  # runs in a table


def save(
    sections: Sequence[Section], table: Sequence[paper.Row], captions: Sequence[str], entity: str, project: str
) -> str:
    """Save the report and return its address. Raises RunError without the package, a key, the project or an answer."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # reports go to W&B's makers and may contain memory
    report = build(sections, table, captions, entity, project)
    try:
        return report.save().url
    except Exception as error:  # it raises plain Exception, or any error of its transport
        reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise RunError(f"wandb={entity}/{project}: {reason}") from error


def build(
    sections: Sequence[Section], table: Sequence[paper.Row], captions: Sequence[str], entity: str, project: str
) -> Any:
    """Return a ``wandb_workspaces.reports.v2.Report`` that is not saved yet. Raises RunError without the package."""
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError as missing:
        raise RunError(f"wandb={entity}/{project}: {_missing_package(missing)}") from missing
    blocks: list[Any] = [wr.H1("Test, first harness and best candidate")]
    blocks.append(wr.MarkdownBlock(paper.markdown(table, captions)))
    for section in sections:
        blocks.append(wr.H1(f"{section.group.label} · {section.group.sample_run.metric}"))
        blocks += _charts(wr, section.group, entity)
        for contrast in section.contrasts:
            blocks += [wr.H2(f"{contrast.new.label} against {contrast.old.label}"), wr.MarkdownBlock(_pairs(contrast))]
        blocks += [wr.H2("Runs"), wr.MarkdownBlock(_runs(section.group))]
    title = "SIA-H and SIA-W+H"
    return wr.Report(project=project, entity=entity, title=title, blocks=blocks, width="fluid")  # pyright: ignore[reportPrivateImportUsage]


def _missing_package(missing: ImportError) -> str:
    return f"{missing.name or 'wandb'} is not installed; the extra `tracking` has it"


def _charts(wr: Any, group: Group, entity: str) -> Iterator[Any]:
    """Yield charts of the runs that were tracked with W&B, one run set an arm."""
    from wandb_workspaces import expr

    sets = []
    for side in group.sides:
        for (owner, project), ids in _tracked(side.runs, entity).items():
            only = [expr.Metric("ID").isin(ids)]
            sets.append(wr.Runset(entity=owner, project=project, name=side.label, filters=only))
    if sets:
        plots = [
            wr.LinePlot(title="best so far, val", x="generation", y=["best_val"]),
            wr.LinePlot(title="candidates, val with interval", x="generation", y=["val", "val_low", "val_high"]),
            wr.LinePlot(title="training reward", x="train/point", y=["train/reward"]),
        ]
        yield wr.PanelGrid(runsets=sets, panels=plots)


def _tracked(runs: Sequence[Ran], entity: str) -> dict[tuple[str, str], list[str]]:
    """Return ``(entity, project)`` -> ids of the W&B runs, as the tracker stores them in each run directory."""
    ids: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        state = json_of(run.path, "tracking/wandb.json")
        if isinstance(state, dict) and isinstance(state.get("id"), str) and isinstance(state.get("project"), str):
            ids.setdefault((str(state.get("entity") or entity), state["project"]), []).append(state["id"])
    return ids


def _pairs(contrast: Contrast) -> str:
    metric = contrast.new.runs[0].metric
    lines = [f"**{contrast.verdict}**: {paper.figure(contrast.over_seeds, metric, sign=True)}", "", _PAIRS]
    for pair in contrast.pairs:
        error = "" if pair.standard_error is None else f" ± {paper.figure(pair.standard_error, metric)}"
        counts = ("–", "–") if pair.won is None else (str(pair.lost), str(pair.won))
        figures = [str(pair.seed), f"{paper.figure(pair.difference, metric, sign=True)}{error}", *counts]
        lines.append("| " + " | ".join([*figures, p_value(pair.p_value), p_value(pair.p_holm), pair.verdict]) + " |")
    return "\n".join(lines)


def _runs(group: Group) -> str:
    lines = [_RUNS]
    for side in group.sides:
        for run in side.runs[:_LISTED]:
            scores = [interval(score, run.metric) for score in (run.initial, run.final)]
            lines.append("| " + " | ".join([cell(run.name), side.label, str(run.seed), run.status, *scores]) + " |")
    return "\n".join(lines)
