"""A new task of the user's own: a folder that runs at once, from a CSV file or from a small example."""

import csv
import re
import shutil
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sia_runner.config.task import TableTaskConfig as Spec
from sia_runner.records import Json
from sia_runner.store.run_directory import write_text
from sia_runner.system import bundled_folder
from sia_runner.tasks.data import run_script
from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.questions import read_rows
from sia_runner.tasks.table import TableTask
from sia_runner.tasks.verifiers.answers import finite_number
from sia_runner.tasks.views import ticked

_EXAMPLE = "CC0 (made by example.py of SIA Runner)"
_MANY = 20  # different answers, up to which they are listed as choices; of numbers, from which they are measurements


def _choose_metric(answers: Sequence[str]) -> Json:
    different = Counter(answers)
    numbers = [finite_number(answer) for answer in different]
    if len(different) > _MANY and None not in numbers:
        values = [float(answer) for answer in answers]
        return {"name": "accuracy", "verifier": "numeric", "tolerance": float(f"{statistics.pstdev(values) / 5:.2g}")}
    plain = all(answer == answer.strip() and "${" not in answer for answer in different)  # that would be Hydra's
    if 2 <= len(different) <= _MANY and plain:
        return {"name": "accuracy", "verifier": "choice", "choices": sorted(different)}
    return {"name": "accuracy", "verifier": "exact_match"}


def _task_description(name: str, columns: Sequence[str], answer: str, metric: Json, *, example: bool) -> str:
    question = f"Each question is one row with the columns {ticked(columns)}. Answer its `{answer}`."
    if example:
        question = "Each question is a message to a shop. Answer which desk should deal with it."
    forms = {
        "choice": f"An answer is one of {ticked(metric.get('choices', []))}, and nothing else in the cell.",
        "numeric": f"An answer is a plain number; it is right within {metric.get('tolerance', 0):g} of the true one.",
        "exact_match": "An answer is right when it is the same text, spaces around it aside; case counts.",
    }
    score = "The score is accuracy: right answers divided by all questions, answered or not."
    return f"# {name.replace('_', ' ').capitalize()}\n\n{question}\n\n{forms[metric['verifier']]}\n\n{score}\n"


def _task_yaml(folder: Path, id_column: str, answer: str, metric: Json, answers: Sequence[str], licence: str) -> str:
    """Return the task's YAML, with comments."""
    dev, val, test = (0.15, 0.3, 0.25) if len(answers) < 2000 else (0.1, 0.2, 0.2)
    stratify = len(set(answers)) <= len(answers) / 4
    parts = {
        "name": folder.name,
        "_target_": "sia_runner.tasks.table.TableTask",
        "dir": str(folder),
        "data": {"labelled": "labelled.csv", "licence": licence},
        "columns": {"id": id_column, "answer": answer},
        "metric": metric,
        "splits": {"dev": dev, "val": val, "test": test, "stratify": stratify},
        "limits": {"run": 120, "gate": 30},
    }
    says = {
        "dir": "where this folder lies; change it when you move it",
        "data": "say in licence what others may do with the data",
        "metric": "exact_match, choice, letter, numeric, auc; or python, for a verifier.py of your own",
        "splits": "shares of the labelled rows; the rest is train",
        "limits": "seconds",
    }
    title = f"{folder.name.replace('_', ' ').capitalize()}: {answer} of {len(answers):,} labelled rows."
    lines = [f"# {' '.join(title.split())}"]
    for key, value in parts.items():
        lines += [f"# {says[key]}"] if key in says else []
        lines.append(yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=110).rstrip())
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class CsvSource:
    """A CSV file of the user's. `id`: its column of ids; None: rows are numbered."""

    csv: Path
    id: str | None
    answer: str
    licence: str


def write_task(name: str, parent: Path, source: CsvSource | None, cache: Path) -> Path:
    """Write the new folder `parent`/`name` and return it. Raises TaskError, and then leaves nothing behind."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise TaskError(f"NAME={name}: a task's name is small letters, digits and _, beginning with a letter")
    if (bundled_folder("conf") / "task" / f"{name}.yaml").is_file():
        raise TaskError(f"NAME={name}: a task of that name is shipped; choose another")
    folder = parent.resolve() / name
    if folder.exists():
        raise TaskError(f"{folder} is there already; choose another NAME or --dir")
    try:
        folder.mkdir(parents=True)
        _fill_folder(folder, name, source)
        _try_task(folder / "conf" / "task" / f"{name}.yaml", cache)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise TaskError(f"{folder} cannot be written: {error}") from error
    except TaskError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _fill_folder(folder: Path, name: str, source: CsvSource | None) -> None:
    if source:
        id_column, answer = _copy_rows(source, folder / "labelled.csv"), source.answer
    else:
        run_script(bundled_folder("tasks") / "_skeleton" / "example.py", folder)
        id_column, answer = "id", "label"
    rows = read_rows(folder / "labelled.csv", id_column)
    answer_index = rows.columns.index(answer)
    answers = [cells[answer_index] for cells in rows.by_id.values()]
    columns = [column for column in rows.columns if column != answer]
    metric = _choose_metric(answers)
    for part in ("reference", "recipes"):
        (folder / part).mkdir()
        for path in (bundled_folder("tasks") / "_skeleton" / part).iterdir():
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                if path.suffix == ".py":
                    text = text.replace('ID = "id"\n', f"ID = {id_column!r}\n")
                    text = text.replace('ANSWER = "label"\n', f"ANSWER = {answer!r}\n")
                write_text(folder / part / path.name, text)
    write_text(folder / "task.md", _task_description(name, columns, answer, metric, example=source is None))
    (folder / "conf" / "task").mkdir(parents=True)
    text = _task_yaml(folder, id_column, answer, metric, answers, source.licence if source else _EXAMPLE)
    write_text(folder / "conf" / "task" / f"{name}.yaml", text)


def _copy_rows(source: CsvSource, dest: Path) -> str:
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


def _try_task(path: Path, cache: Path) -> None:
    """Load the new task, so that data that cannot be split or verified is reported at once. Raises TaskError."""
    from pydantic import ValidationError

    from sia_runner.config.composition import explain_validation_error

    declared = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        task = TableTask(Spec.model_validate(declared), 0, cache)
    except ValidationError as error:
        raise TaskError("; ".join(explain_validation_error(error, declared))) from error
    task.prepare(lambda _: None)
