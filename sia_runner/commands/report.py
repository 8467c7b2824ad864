"""``python -m sia_runner report RUN… [sweep=DIR] [out=FILE.html] [wandb=ENTITY/PROJECT]``: SIA-H against SIA-W+H.

A RUN is a run directory, a folder of them or a sweep; finished, failed and cut ones are all shown. Writes one HTML page
that needs nothing else (default: report.html), and beside it the same as NAME.md and NAME.tex (a table for a paper) and
as NAME.runs.csv, NAME.generations.csv, NAME.pairs.csv. With wandb= it also saves a W&B Report (extra `tracking`)."""

import re
from collections.abc import Sequence
from pathlib import Path

from sia_runner.config.refusals import EXIT_REFUSED, print_refusals
from sia_runner.store.run_directory import RunDirectoryError, write_text

_KEYS = ("sweep", "out", "wandb")


def main(args: Sequence[str]) -> int:
    """Run the command. Return its exit code."""
    if not args or {"-h", "--help"} & set(args):
        print(__doc__)
        return 0 if args else EXIT_REFUSED
    with print_refusals() as outcome:
        folders, out, wandb = parse_arguments(args)
        for line in write_report(folders, out, wandb, args):
            print(line)
        outcome.code = 0
    return outcome.code


def parse_arguments(args: Sequence[str]) -> tuple[list[Path], Path, tuple[str, str] | None]:
    """Return the folders, the page, and the (entity, project) in W&B or None. Raises RunError."""
    pairs = [_parse_argument(arg) for arg in args]
    folders = [Path(value).expanduser().resolve() for key, value in pairs if key in ("", "sweep")]
    out = Path(next((value for key, value in reversed(pairs) if key == "out"), "report.html")).expanduser().resolve()
    if not folders:
        raise RunDirectoryError("no run is named; allowed: RUN… sweep=DIR out=FILE.html wandb=ENTITY/PROJECT")
    if out.suffix != ".html":
        raise RunDirectoryError(f"out={out.name}: name a file that ends in .html")
    target = next((value for key, value in reversed(pairs) if key == "wandb"), None)
    if target is None:
        return folders, out, None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", target):
        raise RunDirectoryError(f"wandb={target}: give ENTITY/PROJECT")
    entity, _, project = target.partition("/")
    return folders, out, (entity, project)


def _parse_argument(arg: str) -> tuple[str, str]:
    """Split ``out=FILE`` into ("out", "FILE"). A folder gets the key "", also if its name has an equals sign in it."""
    key, sign, value = arg.partition("=")
    if sign and key in _KEYS:
        return key, value
    if arg.startswith("-") or (sign and re.fullmatch(r"\w+", key) and not Path(arg).exists()):
        raise RunDirectoryError(f"{arg}: no such option; allowed: sweep=DIR out=FILE.html wandb=ENTITY/PROJECT")
    return "", arg


def write_report(folders: Sequence[Path], out: Path, wandb: tuple[str, str] | None, args: Sequence[str]) -> list[str]:
    """Write all files; return lines for the user. Raises RunError, before writing if a folder is wrong."""
    from sia_runner.results.report import page, tables
    from sia_runner.results.report import runs as found
    from sia_runner.results.report.runs import read_run
    from sia_runner.results.report.tables import report_sections, table_captions

    runs = [read_run(source) for source in found.find_sources(folders)]
    computed = report_sections(runs)
    table = [row for section in computed for row in section.rows]
    notes = table_captions(computed, runs)
    files = {
        out: page.render_page(computed, runs, args),
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
    messages = [
        f"{len(runs)} runs, {tested} with a test score: {out}",
        f"beside it: {', '.join(p.name for p in [*files][1:])}",
    ]
    if wandb:
        from sia_runner.results.report.workspace import save_report

        messages.append(f"W&B Report: {save_report(computed, table, notes, *wandb)}")
    return messages
