"""``python -m sia_runner.report RUN… [sweep=DIR] [out=FILE.html] [wandb=ENTITY/PROJECT]``: SIA-H against SIA-W+H.

A RUN is a run directory, a folder of them or a sweep; finished, failed and cut ones are all shown. Writes one HTML page
that needs nothing else (default: report.html), and beside it the same as NAME.md and NAME.tex (a table for a paper) and
as NAME.runs.csv, NAME.generations.csv, NAME.pairs.csv. With wandb= it also saves a W&B Report (extra `tracking`).
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from sia_runner.compose.refusals import REFUSED, refusals
from sia_runner.rundir import RunError, write_text

_KEYS = ("sweep", "out", "wandb")


def main(args: Sequence[str]) -> int:
    """Run the command. Return its exit code."""
    if not args or {"-h", "--help"} & set(args):
        print(__doc__)
        return 0 if args else REFUSED
    with refusals() as outcome:
        folders, out, wandb = parse(args)
        for line in report(folders, out, wandb, args):
            print(line)
        outcome.code = 0
    return outcome.code


def parse(args: Sequence[str]) -> tuple[list[Path], Path, tuple[str, str] | None]:
    """Return the folders, the page, and the (entity, project) in W&B or None. Raises RunError."""
    pairs = [_key(arg) for arg in args]
    folders = [Path(value).expanduser().resolve() for key, value in pairs if key in ("", "sweep")]
    out = Path(next((value for key, value in reversed(pairs) if key == "out"), "report.html")).expanduser().resolve()
    if not folders:
        raise RunError("no run is named; allowed: RUN… sweep=DIR out=FILE.html wandb=ENTITY/PROJECT")
    if out.suffix != ".html":
        raise RunError(f"out={out.name}: name a file that ends in .html")
    target = next((value for key, value in reversed(pairs) if key == "wandb"), None)
    if target is None:
        return folders, out, None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", target):
        raise RunError(f"wandb={target}: give ENTITY/PROJECT")
    entity, _, project = target.partition("/")
    return folders, out, (entity, project)


def _key(arg: str) -> tuple[str, str]:
    """Split ``out=FILE`` into ("out", "FILE"). A folder gets the key "", also if its name has an equals sign in it."""
    key, sign, value = arg.partition("=")
    if sign and key in _KEYS:
        return key, value
    if arg.startswith("-") or (sign and re.fullmatch(r"\w+", key) and not Path(arg).exists()):
        raise RunError(f"{arg}: no such option; allowed: sweep=DIR out=FILE.html wandb=ENTITY/PROJECT")
    return "", arg


def report(folders: Sequence[Path], out: Path, wandb: tuple[str, str] | None, args: Sequence[str]) -> list[str]:
    """Write all files; return lines for the user. Raises RunError, before writing if a folder is wrong."""
    from sia_runner.report import found, page, paper, spreadsheets
    from sia_runner.report.captions import captions
    from sia_runner.report.runs import read
    from sia_runner.report.sections import sections

    runs = [read(source) for source in found.runs_of(folders)]
    computed = sections(runs)
    table = [row for section in computed for row in section.rows]
    notes = captions(computed, runs)
    files = {
        out: page.render(computed, runs, args),
        out.with_suffix(".md"): paper.markdown(table, notes),
        out.with_suffix(".tex"): paper.latex(table, notes),
        out.with_suffix(".runs.csv"): spreadsheets.runs(runs),
        out.with_suffix(".generations.csv"): spreadsheets.generations(runs),
        out.with_suffix(".pairs.csv"): spreadsheets.pairs(computed),
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
        from sia_runner.report.workspace import save

        messages.append(f"W&B Report: {save(computed, table, notes, *wandb)}")
    return messages


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
