"""The command `report` writes the page that compares SIA-H with SIA-W+H, and its tables."""

import re
from argparse import Namespace

from sia_runner.store.run_directory import RunDirectoryError, write_text


def main(options: Namespace) -> int:
    """Write all files, none if a folder is wrong; return the exit code."""
    folders, out = [*options.folders, *options.sweep], options.out
    if not folders:
        raise RunDirectoryError("no run is named; allowed: RUN… sweep=DIR out=FILE.html wandb=ENTITY/PROJECT")
    if out.suffix != ".html":
        raise RunDirectoryError(f"out={out.name}: name a file that ends in .html")
    if options.wandb and not re.fullmatch(r"[\w.-]+/[\w.-]+", options.wandb):
        raise RunDirectoryError(f"wandb={options.wandb}: give ENTITY/PROJECT")
    from sia_runner.results.report import page, tables
    from sia_runner.results.report.runs import find_sources, read_run
    from sia_runner.results.report.tables import report_sections, table_captions

    runs = [read_run(source) for source in find_sources(folders)]
    computed = report_sections(runs)
    table = [row for section in computed for row in section.rows]
    notes = table_captions(computed, runs)
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

        print(f"W&B Report: {save_report(computed, table, notes, *options.wandb.split('/'))}")
    return 0
