"""A new task of the user's own: a folder that runs at once, from a CSV file or from a small example."""

import csv
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from sia_runner.ground.resources import bundled
from sia_runner.own_task.texts import config, description, metric_of
from sia_runner.rundir import write_text
from sia_runner.schema.task import TableTask as Spec
from sia_runner.tasks.fetch import run_script
from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.rows import read_rows
from sia_runner.tasks.table import TableTask

_EXAMPLE = "CC0 (made by example.py of SIA Runner)"


@dataclass(frozen=True, slots=True)
class Source:
    """A CSV file of the user's. `id`: its column of ids; None: rows are numbered."""

    csv: Path
    id: str | None
    answer: str
    licence: str


def write(name: str, parent: Path, source: Source | None, cache: Path) -> Path:
    """Write the new folder `parent`/`name` and return it. Raises TaskError, and then leaves nothing behind."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise TaskError(f"NAME={name}: a task's name is small letters, digits and _, beginning with a letter")
    if (bundled("conf") / "task" / f"{name}.yaml").is_file():
        raise TaskError(f"NAME={name}: a task of that name is shipped; choose another")
    folder = parent.resolve() / name
    if folder.exists():
        raise TaskError(f"{folder} is there already; choose another NAME or --dir")
    try:
        folder.mkdir(parents=True)
        _fill(folder, name, source)
        _try(folder, name, cache)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise TaskError(f"{folder} cannot be written: {error}") from error
    except TaskError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _fill(folder: Path, name: str, source: Source | None) -> None:
    if source:
        id_column, answer = _copy_rows(source, folder / "labelled.csv"), source.answer
    else:
        run_script(bundled("tasks") / "_skeleton" / "example.py", folder)
        id_column, answer = "id", "label"
    rows = read_rows(folder / "labelled.csv", id_column)
    answer_index = rows.columns.index(answer)
    answers = [cells[answer_index] for cells in rows.by_id.values()]
    columns = [column for column in rows.columns if column != answer]
    metric = metric_of(answers)
    for part in ("reference", "recipes"):
        _copy_programs(bundled("tasks") / "_skeleton" / part, folder / part, id_column, answer)
    licence = source.licence if source else _EXAMPLE
    write_text(folder / "task.md", description(name, columns, answer, metric, example=source is None))
    (folder / "conf" / "task").mkdir(parents=True)
    write_text(folder / "conf" / "task" / f"{name}.yaml", config(folder, id_column, answer, metric, answers, licence))


def _copy_rows(source: Source, dest: Path) -> str:
    """Copy the user's rows, with a column of ids where there was none; return that column's name."""
    try:
        text = source.csv.read_text(encoding="utf-8-sig")
        table = [row for row in csv.reader(text.splitlines(keepends=True)) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"--csv {source.csv}: cannot be read as CSV in UTF-8: {error}") from error
    header = table[0] if table else []
    for option, column in (("--answer", source.answer), ("--id", source.id)):
        if column is not None and header.count(column) != 1:
            names = ", ".join(header) or "none"
            raise TaskError(f"{option} {column}: {source.csv} needs that column once; its columns are: {names}")
    if source.id == source.answer:
        raise TaskError(f"--id and --answer are both {source.id}; they are two columns")
    name = source.id or next(name for name in ("id", "row_id", "row_number_of_task") if name not in header)
    with dest.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        numbered = [[name, *header], *([str(n), *row] for n, row in enumerate(table[1:]))]
        writer.writerows(table if source.id else numbered)
    return name


def _copy_programs(source: Path, dest: Path, id_column: str, answer: str) -> None:
    dest.mkdir()
    for path in (path for path in source.iterdir() if path.is_file()):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            text = text.replace('ID = "id"\n', f"ID = {id_column!r}\n").replace(
                'ANSWER = "label"\n', f"ANSWER = {answer!r}\n"
            )
        write_text(dest / path.name, text)


def _try(folder: Path, name: str, cache: Path) -> None:
    """Load the new task, so that data that cannot be split or verified is reported at once. Raises TaskError."""
    from pydantic import ValidationError

    from sia_runner.compose.problems import explain

    declared = yaml.safe_load((folder / "conf" / "task" / f"{name}.yaml").read_text(encoding="utf-8"))
    try:
        task = TableTask(Spec.model_validate(declared), 0, cache)
    except ValidationError as error:
        raise TaskError("; ".join(explain(error, declared))) from error
    task.prepare(lambda _: None)
