"""The command `report` writes the page that compares SIA-H with SIA-W+H, and its tables."""

import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sia_runner.config.base import ComponentError, load_class
from sia_runner.store.run_directory import RunDirectoryError, write_text

if TYPE_CHECKING:
    from sia_runner.results.report.runs import ReportedRun


def main(options: Namespace) -> int:
    """Write all files, none if a folder is wrong; return the exit code."""
    folders = [*options.folders, *options.sweep]
    if not folders:
        raise RunDirectoryError("no run is named; allowed: RUN… sweep= out= columns= wandb=")
    own_folder = len(folders) == 1 and folders[0].is_dir() and not (folders[0] / "config.yaml").is_file()
    out = options.out or (folders[0] if own_folder else Path.cwd()) / "report.html"
    if out.suffix != ".html":
        raise RunDirectoryError(f"out={out.name}: name a file that ends in .html")
    if options.wandb and not re.fullmatch(r"[\w.-]+/[\w.-]+", options.wandb):
        raise RunDirectoryError(f"wandb={options.wandb}: give ENTITY/PROJECT")
    from sia_runner.results.report import page, tables
    from sia_runner.results.report.analysis import report_sections
    from sia_runner.results.report.runs import find_sources, read_run

    columns = options.columns.split(",") if options.columns else []
    runs = [_with_columns(read_run(source), columns) for source in find_sources(folders)]
    computed = report_sections(runs)
    table, notes = tables.paper_table(computed), tables.table_captions(computed, runs)
    files = {
        out: page.render_page(computed, runs, options.arguments),
        out.with_suffix(".md"): tables.markdown_table(table, notes),
        out.with_suffix(".tex"): tables.latex_table(table, notes),
        out.with_suffix(".runs.csv"): tables.runs_csv(runs),
        out.with_suffix(".generations.csv"): tables.generations_csv(runs),
        out.with_suffix(".pairs.csv"): tables.pairs_csv(computed),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        write_text(path, text)
    tested = sum(run.final is not None for run in runs)
    print(f"{len(runs)} runs, {tested} with a test score: {out}")
    print(f"beside it: {', '.join(path.name for path in [*files][1:])}")
    if options.wandb:
        from sia_runner.results.report.workspace import save_report

        print(f"W&B Report: {save_report(computed, files[out.with_suffix('.md')], *options.wandb.split('/'))}")
    return 0


def _with_columns(run: "ReportedRun", functions: Sequence[str]) -> "ReportedRun":
    """Attach the user's own columns. Raises ComponentError for a function that cannot be used."""
    from sia_runner.results.report.tables import runs_csv

    for name in functions:
        function, column = load_class(name), name.rpartition(".")[2]
        if column in runs_csv([run]).partition("\n")[0].split(","):
            raise ComponentError(f"columns={name}: there is a column {column} already; give the function another name")
        try:
            run = replace(run, own={**run.own, column: function(run)})
        except Exception as error:  # whatever the user's own function raises
            raise ComponentError(f"columns={name}: {type(error).__name__} for {run.path}: {error}") from error
    return run
