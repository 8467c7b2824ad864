"""The report as a W&B Report, through wandb-workspaces: tables as text, charts of the runs that W&B has itself."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from sia_runner.results.report import tables
from sia_runner.results.report.analysis import ArmContrast, ComparableGroup, ReportSection
from sia_runner.results.report.page import format_p_value, format_score
from sia_runner.store.files import as_dict, load_json
from sia_runner.store.run_directory import RunDirectoryError
from sia_runner.text import table_cell

_MAX_RUNS = 500  # runs in a table


def save_report(sections: Sequence[ReportSection], table: str, entity: str, project: str) -> str:
    """Save the report, with the Markdown table, and return its address. Raises RunError if that is not possible."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # reports go to W&B's makers and may contain memory
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError as missing:
        reason = f"{missing.name or 'wandb'} is not installed; the extra `tracking` has it"
        raise RunDirectoryError(f"wandb={entity}/{project}: {reason}") from missing
    blocks: list[Any] = [wr.H1("Test, first harness and best candidate")]
    blocks.append(wr.MarkdownBlock(table))
    for section in sections:
        blocks.append(wr.H1(f"{section.group.label} · {section.group.sample_run.metric}"))
        blocks += _run_charts(wr, section.group, entity)
        blocks += [wr.MarkdownBlock(sentence) for sentence in section.survival]
        for contrast in section.contrasts:
            blocks.append(wr.H2(f"{contrast.new.label} against {contrast.old.label}"))
            blocks.append(wr.MarkdownBlock(_pairs_table(contrast)))
        blocks += [wr.H2("Runs"), wr.MarkdownBlock(_runs_table(section.group))]
    title = "SIA-H and SIA-W+H"
    report = wr.Report(project=project, entity=entity, title=title, blocks=blocks, width="fluid")  # pyright: ignore[reportPrivateImportUsage]
    try:
        return report.save().url
    except Exception as error:  # it raises plain Exception, or any error of its transport
        reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise RunDirectoryError(f"wandb={entity}/{project}: {reason}") from error


def _run_charts(wr: Any, group: ComparableGroup, entity: str) -> Iterator[Any]:
    from wandb_workspaces import expr

    sets = []
    for side in group.sides:
        ids: dict[tuple[str, str], list[str]] = {}  # of the W&B runs, by entity and project
        for run in side.runs:
            state = as_dict(load_json(run.path, "tracking/wandb.json"))  # as the tracker stores it
            if isinstance(state.get("id"), str) and isinstance(state.get("project"), str):
                ids.setdefault((str(state.get("entity") or entity), state["project"]), []).append(state["id"])
        for (owner, project), of in ids.items():
            only = [expr.Metric("ID").isin(of)]
            sets.append(wr.Runset(entity=owner, project=project, name=side.label, filters=only))
    if sets:
        plots = [
            wr.LinePlot(title="best so far, val", x="generation", y=["best_val"]),
            wr.LinePlot(title="candidates, val with interval", x="generation", y=["val", "val_low", "val_high"]),
            wr.LinePlot(title="training reward", x="train/point", y=["train/reward"]),
        ]
        yield wr.PanelGrid(runsets=sets, panels=plots)


def _pairs_table(contrast: ArmContrast) -> str:
    metric = contrast.new.runs[0].metric
    lines = [f"**{contrast.verdict}**: {tables.format_figure(contrast.over_seeds, metric, sign=True)}", ""]
    lines.append("| seed | difference ± s.e. | lost | won | McNemar p | p (Holm) | verdict |")
    lines.append("|---:|---:|---:|---:|---:|---:|---|")
    for pair in contrast.pairs:
        error = "" if pair.standard_error is None else f" ± {tables.format_figure(pair.standard_error, metric)}"
        cells = [str(pair.seed), f"{tables.format_figure(pair.difference, metric, sign=True)}{error}"]
        cells += ("–", "–") if pair.won is None else (str(pair.lost), str(pair.won))
        cells += (format_p_value(pair.p_value), format_p_value(pair.p_holm), pair.verdict)
        lines.append(tables.markdown_row(cells))
    return "\n".join(lines)


def _runs_table(group: ComparableGroup) -> str:
    lines = ["| run | arm | seed | status | initial, test | best, test |", "|---|---|---:|---|---|---|"]
    for side in group.sides:
        for run in side.runs[:_MAX_RUNS]:
            scores = [format_score(score, run.metric) for score in (run.initial, run.final)]
            cells = [table_cell(run.name), side.label, str(run.seed), run.status, *scores]
            lines.append(tables.markdown_row(cells))
    return "\n".join(lines)
