"""A new task of the user's own: a folder that runs at once, from a table or from a small example."""

import csv
import re
import shutil
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sia_runner.config.composition import compose_plain, explain_validation_error
from sia_runner.config.experiment import check_task
from sia_runner.config.refusals import nearest_choice
from sia_runner.config.task import TableTaskConfig
from sia_runner.records import Json
from sia_runner.store.run_directory import write_text
from sia_runner.system import bundled_folder
from sia_runner.tasks.data import run_script
from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.questions import read_rows
from sia_runner.tasks.table import TableTask
from sia_runner.tasks.user_table import MANY, UserTable, is_missing, read_user_table
from sia_runner.tasks.verifiers.answers import finite_number
from sia_runner.tasks.views import ticked

_EXAMPLE = "CC0 (made by example.py of SIA Runner)"
_NO_NAMES = frozenset(("nan", "inf", "null", "true", "false", "none", "yes", "no", "on", "off"))  # YAML's


def _is_measured(answers: Sequence[str]) -> bool:
    """Return True for numbers that are measurements; whole numbers that recur, or begin with 0, name classes."""
    different = set(answers)
    whole = all(re.fullmatch(r"[-+]?\d+", answer) for answer in different)
    padded = any(re.fullmatch(r"[-+]?0\d+", answer) for answer in different)
    codes = whole and (padded or len(answers) >= 5 * len(different))
    return len(different) > MANY and not codes and None not in map(finite_number, different)


def _choose_metric(answers: Sequence[str]) -> tuple[Json, str]:
    different = sorted(set(answers))
    if _is_measured(answers):
        tolerance = float(f"{statistics.pstdev(map(float, answers)) / 5:.2g}")
        why = f"measurements, right within {tolerance:g}: {len(different)} different numbers"
        return {"name": "accuracy", "verifier": "numeric", "tolerance": tolerance}, why
    kind = "whole numbers" if all(map(str.isdecimal, different)) else "answers"
    why = f"classes: {len(different)} different {kind} in {len(answers):,} rows"
    if 2 <= len(different) <= MANY and all(answer == answer.strip() for answer in different):
        return {"name": "accuracy", "verifier": "choice", "choices": different}, why
    if len(different) > len(answers) / 2:
        why = "the same text: nearly every answer is different"
    return {"name": "accuracy", "verifier": "exact_match"}, why


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


def _task_yaml(name: str, ids: str, answer: str, metric: Json, answers: Sequence[str], licence: str, form: str) -> str:
    """Return the task's YAML, with comments, quoted as Hydra reads it (1E5 is a number there, not in YAML)."""
    from omegaconf import OmegaConf

    dev, val, test = (0.15, 0.3, 0.25) if len(answers) < 2000 else (0.1, 0.2, 0.2)
    stratify = len(set(answers)) <= len(answers) / 4
    splits = {"dev": dev, "val": val, "test": test, "stratify": stratify}
    judges = "exact_match, choice, letter, numeric, auc, rmse, … (docs/tasks.md); python: verifier.py of your own"
    if metric["verifier"] == "numeric":
        instead = "metric: {name: rmse, verifier: rmse, higher_is_better: false}"
        judges += f"\n# for how far answers are off, instead (or mae, rmsle), and in task.md:\n# {instead}"
    warmed = "what a tiny policy (trainer=…) is warmed on: the prompt of with_model/"
    parts: dict[str, tuple[Any, str]] = {  # with a comment
        "name": (name, ""),
        "_target_": ("sia_runner.tasks.table.TableTask", ""),
        "dir": ("../..", "where this folder lies, from this file"),
        "data": ({"labelled": "labelled.csv", "licence": licence}, "say in licence what others may do with the data"),
        "columns": ({"id": ids, "answer": answer}, ""),
        "metric": (metric, judges),
        "splits": (splits, "shares of the labelled rows; the rest is train"),
        "limits": ({"run": 120, "gate": 30}, "seconds"),
        "warmup_format": ({"prompt": form, "answer": f"{{{answer}}}"} if form else None, warmed),
    }
    title = f"{name.replace('_', ' ').capitalize()}: {answer} of {len(answers):,} labelled rows."
    lines = [f"# {' '.join(title.split())}"]
    for key, (value, comment) in parts.items():
        lines += [f"# {comment}"] if comment else []
        lines.append(OmegaConf.to_yaml(OmegaConf.create({key: _escape(value)})).rstrip())
    return "\n".join(lines) + "\n"


def _escape(value: Any) -> Any:
    """Return the value with its ${ escaped, which OmegaConf would take for an interpolation."""
    if isinstance(value, dict):
        return {key: _escape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_escape(part) for part in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


class CsvSource(NamedTuple):
    """A table of the user's. `id`: its column of ids; None: rows are numbered."""

    csv: Path
    id: str | None
    answer: str
    licence: str


def write_task(name: str, parent: Path, source: CsvSource | None, cache: Path) -> tuple[Path, list[str]]:
    """Write the folder `parent`/`name`; return it, and what was understood. An error leaves nothing behind."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or name in _NO_NAMES:
        raise TaskError(f"NAME={name}: a task's name is small letters, digits and _, from a letter on; no word of YAML")
    if (bundled_folder("conf") / "task" / f"{name}.yaml").is_file():
        raise TaskError(f"NAME={name}: a task of that name is shipped; choose another")
    folder = parent.resolve() / name
    if folder.exists():
        raise TaskError(f"{folder} is there already; choose another NAME or --dir")
    try:
        folder.mkdir(parents=True)
        return folder, [*_fill_folder(folder, name, source), _try_task(folder, cache)]
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise TaskError(f"{folder} cannot be written: {error}") from error
        raise


def _fill_folder(folder: Path, name: str, source: CsvSource | None) -> list[str]:
    lines: list[str] = []
    if source:
        id_column, answer = _copy_rows(source, folder / "labelled.csv", lines), source.answer.strip()
    else:
        run_script(bundled_folder("tasks") / "_skeleton" / "example.py", folder)
        id_column, answer = "id", "label"
    rows = read_rows(folder / "labelled.csv", id_column)
    answer_index = rows.columns.index(answer)
    answers = [cells[answer_index] for cells in rows.by_id.values()]
    columns = [column for column in rows.columns if column != answer]
    metric, why = _choose_metric(answers)
    words = {"choice": f"one of {', '.join(metric.get('choices', []))}", "numeric": "a number"}
    ask = f"Answer with the {answer}, {words.get(metric['verifier'], 'in the words of the table')}, and nothing else."
    for part in ("reference", "recipes", "with_model/reference", "with_model/recipes"):
        (folder / part).mkdir(parents=True)
        for path in (bundled_folder("tasks") / "_skeleton" / part).iterdir():
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                if path.suffix == ".py":
                    text = text.replace('ID = "id"\n', f"ID = {id_column!r}\n")
                    text = text.replace('ANSWER = "label"\n', f"ANSWER = {answer!r}\n")
                    text = text.replace('ASK = "Answer with the label and nothing else."', f"ASK = {ask!r}")
                    text = text.replace("MEASURED = True ", f"MEASURED = {metric['verifier'] == 'numeric'} ")
                write_text(folder / part / path.name, text)
    write_text(folder / "task.md", _task_description(name, columns, answer, metric, example=source is None))
    (folder / "conf" / "task").mkdir(parents=True)
    form = "\n".join([ask.replace("{", "{{").replace("}", "}}"), *(f"{name}: {{{name}}}" for name in columns)])
    if any(re.search(r"^\d+$|[{}\[\].:!]", name) for name in rows.columns):  # no name in a format string
        form = ""
    text = _task_yaml(name, id_column, answer, metric, answers, source.licence if source else _EXAMPLE, form)
    write_text(folder / "conf" / "task" / f"{name}.yaml", text)
    cells_by_column = zip(rows.columns, zip(*rows.by_id.values(), strict=True), strict=True)
    kinds = [f"{column} ({_kind(cells)})" for column, cells in cells_by_column if column != answer]
    lines.append(f"rows: {len(answers):,}; columns: {', '.join(kinds)}")
    how = f"judged by {metric['verifier']} as {why}; to change it: metric in conf/task/{name}.yaml"
    return [*lines, f"answers: column {answer}, {how}"]


def _kind(cells: Sequence[str]) -> str:
    filled = [cell for cell in cells if not is_missing(cell)]
    is_number = filled and None not in map(finite_number, filled)
    kind = "number" if is_number else "text" if len(set(filled)) > MANY else f"{len(set(filled))} different texts"
    return f"{kind}, {len(cells) - len(filled)} missing" if len(filled) < len(cells) else kind


def _copy_rows(source: CsvSource, dest: Path, lines: list[str]) -> str:
    """Copy the user's rows, with a column of ids where there was none; return that column's name."""
    table = read_user_table(source.csv)
    lines += table.notes
    header, answer, id_column = table.columns, source.answer.strip(), source.id.strip() if source.id else None
    for option, column in (("--answer", answer), ("--id", id_column)):
        if column is not None and column not in header:
            alike = [name for name in header if name.casefold() == column.casefold()]
            hint = f"; did you mean {alike[0]!r}?" if alike else nearest_choice(column, header)
            raise TaskError(f"{option} {column}: no such column in {source.csv}{hint}")
    if id_column == answer:
        raise TaskError(f"--id and --answer are both {id_column}; they are two columns")
    rows = _labelled_rows(table, answer, f"--csv {source.csv}: column {answer}", lines)
    if id_column:
        ids = {n: row[header.index(id_column)] for n, row in rows.items()}
        counts = Counter(ids.values())
        if wrong := [str(n) for n, cell in ids.items() if counts[cell] > 1 or not cell.strip()]:
            numbers = ", ".join(wrong[:10])
            raise TaskError(f"--id {id_column}: rows of {source.csv} without an id of their own: {numbers}")
    name = id_column or next(name for name in ("id", "row_id", "row_number_of_task") if name not in header)
    with dest.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header if id_column else [name, *header])
        writer.writerows(row if id_column else [str(n), *row] for n, row in enumerate(rows.values(), 1))
    return name


def _labelled_rows(table: UserTable, answer: str, where: str, lines: list[str]) -> dict[int, list[str]]:
    """Return number -> row of those with an answer, and note what is odd about the answers. Raises TaskError."""
    index, rows = table.columns.index(answer), dict(zip(table.numbers, table.rows, strict=True))
    for row in table.rows:
        row[index] = row[index].strip()
    present = {n: row[index] for n, row in rows.items() if not is_missing(row[index])}
    strays = {n: present.pop(n) for n in (table.numbers[at] for at in table.strays.get(answer, []))}
    if strays and _is_measured(list(present.values())):
        cells = ", ".join(f"row {n} {cell!r}" for n, cell in list(strays.items())[:5])
        fix = "write numbers there as in the other rows, or nothing, which leaves the row out"
        raise TaskError(f"{where}: cells that are no numbers like the others ({len(strays)}): {cells}; {fix}")
    numeric = present and not strays and None not in map(finite_number, present.values())
    if blank := [n for n, row in rows.items() if (is_missing(row[index]) if numeric else not row[index])]:
        numbers = ", ".join(map(str, blank[:10]))
        lines.append(f"rows without an answer left out ({len(blank)}): {numbers}{', …' * (len(blank) > 10)}")
    rows = {n: row for n, row in rows.items() if n not in set(blank)}
    counts = Counter(row[index] for row in rows.values())
    if len(counts) < 2:
        raise TaskError(f"{where} has {f'only the answer {next(iter(counts))!r}' if counts else 'no answer at all'}")
    spellings: dict[str, list[str]] = defaultdict(list)
    for text, count in counts.items():
        spellings[" ".join(text.split()).casefold()].append(f"{text!r} ({count})")
    if several := [" and ".join(texts) for texts in spellings.values() if len(texts) > 1]:
        lines.append(f"answers that differ only in case or blanks: {'; '.join(several[:5])}; are they one?")
    different = len({tuple(row[:index] + row[index + 1 :]) for row in rows.values()})
    if different < 0.9 * len(rows):
        lines.append(f"only {different} of {len(rows)} rows differ in what is asked; equal rows share a split")
    return rows


def _try_task(folder: Path, cache: Path) -> str:
    """Compose and load the new task as a run does; return its splits. Raises TaskError."""
    from pydantic import ValidationError

    plain = compose_plain([f"--config-dir={folder / 'conf'}", f"task={folder.name}"])
    try:
        spec = check_task(plain)
    except ValidationError as error:
        raise TaskError("; ".join(explain_validation_error(error, plain))) from error
    if not isinstance(spec, TableTaskConfig):
        raise AssertionError(spec)
    task = TableTask(spec, 0, cache)
    task.prepare(lambda _: None)
    sizes = ", ".join(f"{len(units):,} {name}" for name, units in task.splits().items())
    return f"splits: {sizes}; to change them: splits in conf/task/{folder.name}.yaml"
