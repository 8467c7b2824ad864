"""Tasks: those there are, one of your own, and whether it holds.

    python -m sia_runner tasks list [--config-dir DIR]
    python -m sia_runner tasks new NAME [--dir PARENT] [--csv FILE --answer COLUMN [--id COLUMN] [--licence TEXT]]
    python -m sia_runner tasks check NAME|FOLDER [--config-dir DIR] [key=value ...]

`check` looks at a task as somebody would who wants a score without doing the work, and says what to mend. Exit codes:
0 nothing was found · 2 findings, or it was refused."""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sia_runner.config.help import config_folders
from sia_runner.config.refusals import EXIT_REFUSED, print_refusals
from sia_runner.system import cache_dir


def main(args: Sequence[str]) -> int:
    """Run `list`, `new` or `check`; return the exit code."""
    command, *others = args or ["--help"]
    commands = {"list": _list, "new": _new, "check": _check}
    if command in commands and not {"-h", "--help"} & set(others):
        return commands[command](others)
    print(f"usage:{(__doc__ or '').partition(chr(10))[2]}")
    return 0 if {"-h", "--help"} & set(args) else EXIT_REFUSED


def _list(args: Sequence[str]) -> int:
    import yaml
    from rich.console import Console
    from rich.table import Table

    table = Table(title="tasks: python -m sia_runner task=NAME", title_justify="left")
    for name in ("name", "metric", "judged by", "needs", "what it is"):
        table.add_column(name, overflow="fold")
    for folder in config_folders(args):
        for path in sorted((folder / "task").glob("[!_]*.yaml")):
            text = path.read_text(encoding="utf-8")
            declared = yaml.safe_load(text)
            table.add_row(path.stem, *_columns_of(declared), text.partition("\n")[0].lstrip("# "))
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=160)).print(table)
    return 0


def _columns_of(declared: dict[str, Any]) -> tuple[str, str, str]:
    needs = ", ".join([*(["a model"] if declared.get("needs_model") else []), *declared.get("requires", [])])
    if "competition" in declared:
        return "the competition's", "its metric", needs
    metric = declared.get("metric", {})
    verifier = (
        "its evaluate.py" if declared["_target_"].endswith("SiaFolder") else metric.get("verifier", "exact_match")
    )
    return metric.get("name", "?"), verifier, needs


def _new(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m sia_runner tasks new", exit_on_error=False)
    parser.add_argument("name")
    parser.add_argument("--dir", type=Path, default=Path())
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--answer")
    parser.add_argument("--id")
    parser.add_argument("--licence", default="not stated")
    try:
        options = parser.parse_args(args)
    except argparse.ArgumentError as error:
        print(f"refused: {error}", file=sys.stderr)
        return EXIT_REFUSED
    if bool(options.csv) != bool(options.answer) or (options.id and not options.csv):
        print("refused: --csv FILE and --answer COLUMN come together; --id COLUMN only with them", file=sys.stderr)
        return EXIT_REFUSED
    from sia_runner.tasks.new_task import CsvSource, write_task

    with print_refusals() as outcome:
        source = CsvSource(options.csv, options.id, options.answer, options.licence) if options.csv else None
        folder = write_task(options.name, options.dir, source, cache_dir())
        folder_text = shlex.quote(_relative_to_current(folder))
        print(f"task {options.name} is in {folder}")
        print(f"run it:   python -m sia_runner --config-dir {folder_text}/conf task={options.name} max_gen=3")
        print(f"check it: python -m sia_runner tasks check {folder_text}")
        outcome.code = 0
    return outcome.code


def _relative_to_current(folder: Path) -> str:
    """Return the path as one types it in the current folder."""
    current = Path.cwd()
    return folder.relative_to(current).as_posix() if folder.is_relative_to(current) else str(folder)


def _check(args: Sequence[str]) -> int:
    if not args or args[0].startswith("-"):
        print("refused: check which task? give its NAME or its FOLDER first", file=sys.stderr)
        return EXIT_REFUSED
    from sia_runner.commands.task_review import review_task
    from sia_runner.config.composition import compose_overrides
    from sia_runner.config.experiment import check_task

    with print_refusals() as outcome:
        overrides = [*_task_overrides(args[0]), *args[1:]]
    if not outcome.lines:
        plain = compose_overrides(overrides)
        if plain is None:
            return EXIT_REFUSED
        with print_refusals(plain) as outcome, tempfile.TemporaryDirectory(prefix="sia-tasks-check-") as folder:
            spec = check_task(plain)
            review = review_task(plain, spec, Path(folder))
            count = len(review.findings)
            print(f"task {spec.name}: {f'{count} finding' + 's' * (count > 1) if count else 'nothing found'}")
            for line in review.lines():
                print(line)
            outcome.code = EXIT_REFUSED if count else 0
    return outcome.code


def _task_overrides(name: str) -> list[str]:
    """Return the overrides that compose the task.

    A folder that `new` wrote, or one like it, has its own YAML.
    """
    from sia_runner.tasks.protocol import TaskError

    folder = Path(name)
    if not folder.is_dir():
        if "/" in name:
            raise TaskError(f"{name}: no such folder")
        return [f"task={name}"]
    if (folder / "data" / "public" / "task.md").is_file():
        raise TaskError(
            f"{name} is a sia-agent folder: its evaluate.py alone says what is right. Make it a task of this runner "
            "(python -m sia_runner tasks new NAME --csv FILE --answer COLUMN) to have it checked"
        )
    declared = sorted((folder / "conf" / "task").glob("*.yaml"))
    if len(declared) != 1:
        raise TaskError(f"{name}: expected one file in {name}/conf/task/, found {len(declared)}")
    return ["--config-dir", str(folder / "conf"), f"task={declared[0].stem}", f"task.dir={folder.resolve()}"]
