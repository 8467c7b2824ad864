"""Lays out a ``--dataset_dir``: train.csv, questions.csv, extra files, task.md. Nothing in it tells which split it is.

Ids: train rows are numbered 0, 1, 2, ... in the data's order; questions go on from there, shuffled by `salt`. Grouped
ids keep their form (0013_02): groups are numbered anew, in shuffled order, alike in train and questions. All of it is
recomputed from (round, salt), so a view can be laid out again to check a run.
"""

import csv
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from sia_runner.schema.task import TableTask
from sia_runner.tasks import files
from sia_runner.tasks.protocol import Round, TaskError, View
from sia_runner.tasks.splits import shuffled
from sia_runner.tasks.units import Units, group_of


def lay_out(
    spec: TableTask, units: Units, source: Path, description: str, round_: Round, dest: Path, salt: str
) -> View:
    dest.mkdir(parents=True, exist_ok=True)
    asked = shuffled(round_.questions, salt)
    names = (_group_names if spec.columns.grouped_ids else _numbers)(round_.train, asked, salt)
    header = [spec.columns.id, *units.columns]
    keys = {names[unit]: unit for unit in asked}
    shown = _lay_out_files(spec, units, source, round_, keys, {names[unit]: unit for unit in round_.train}, dest)
    row = partial(_row, units, names, shown)
    if round_.train:
        answer = spec.columns.answer
        rows = ([*row(unit), shown.get((answer, gold := units.answers[unit]), gold)] for unit in round_.train)
        _write_csv(dest / "train.csv", [*header, answer], rows)
    _write_csv(dest / "questions.csv", header, (row(unit) for unit in asked))
    if spec.questions_as:
        _copy(dest / "questions.csv", dest / spec.questions_as)
    for name, path in spec.data.extra.items():
        _copy(source / path, dest / name)
    (dest / "task.md").write_text(f"{description.rstrip()}\n\n{_contents(spec, header, round_)}", encoding="utf-8")
    (dest / "task.md").chmod(0o444)
    return View(dest, keys)


def _row(units: Units, names: Mapping[str, str], shown: files.Names, unit: str) -> list[str]:
    """Id and fields as the harness sees them."""
    fields = zip(units.columns, units.fields[unit], strict=True)
    return [names[unit], *(shown.get(field, field[1]) for field in fields)]


def _lay_out_files(
    spec: TableTask,
    units: Units,
    source: Path,
    round_: Round,
    asked: Mapping[str, str],
    taught: Mapping[str, str],
    dest: Path,
) -> files.Names:
    """Copies of the files that rows name. Raises TaskError where a file that is to be learned from is also a file that
    is asked for."""
    columns = spec.columns
    if known := files.answers_of(columns, units, round_.train) & files.answers_of(columns, units, round_.questions):
        raise TaskError(f"task {spec.name}: {min(known)} is the answer of a row of train and of a question at once")
    shown = files.names(columns, units, asked, taught)
    for (_, path), name in shown.items():
        _copy(source / path, dest / name)
    return shown


def _numbers(train: Sequence[str], asked: Sequence[str], salt: str) -> dict[str, str]:
    del salt  # `asked` is shuffled by it
    return {unit: str(number) for number, unit in enumerate([*train, *asked])}


def _group_names(train: Sequence[str], asked: Sequence[str], salt: str) -> dict[str, str]:
    units = [*train, *asked]
    groups = shuffled(sorted({group_of(unit) for unit in units}), salt)
    number = {group: f"{place:04d}" for place, group in enumerate(groups, start=1)}
    return {unit: f"{number[group_of(unit)]}_{unit.partition('_')[2]}" for unit in units}


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    path.chmod(0o444)


def _copy(source: Path, dest: Path) -> None:
    """Never a link: a harness may run as our own user, and the cache must stay as it is."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, dest)
    dest.chmod(0o444)


def _contents(spec: TableTask, header: Sequence[str], round_: Round) -> str:
    """The part of task.md that is generated for each view."""
    lines = [f"- `questions.csv`: {len(round_.questions):,} questions to answer; columns {_ticked(header)}"]
    if round_.train:
        columns = _ticked([*header, spec.columns.answer])
        lines.insert(0, f"- `train.csv`: {len(round_.train):,} rows with their answers; columns {columns}")
    if spec.questions_as:
        lines.append(f"- `{spec.questions_as}`: the same file as `questions.csv`")
    lines += [f"- `{name}`" for name in spec.data.extra]
    for column in spec.columns.files:
        if round_.train or column != spec.columns.answer:
            lines.append(f"- `{column}/`: the files that the column `{column}` names, as paths in `--dataset_dir`")
    heading = "## What to write into `--working_dir`"
    return "\n".join(["## Files in `--dataset_dir`", "", *lines, "", heading, "", _wanted(spec, round_), ""])


def _wanted(spec: TableTask, round_: Round) -> str:
    """The submission: a table, or something whose contents the task's own text tells."""
    limits = spec.limits
    if spec.submission.endswith(".csv"):
        answers = _ticked([spec.columns.id, *spec.answer_columns])
        return (
            f"`{spec.submission}`: a CSV file in UTF-8 with the columns {answers} and one row for each of the "
            f"{len(round_.questions):,} questions, in any order. A question that is missing, or answered twice, earns "
            "nothing."
        )
    what = "one file"
    if spec.submission.endswith("/"):
        what = f"a folder with at most {limits.submission_files:,} files, links not among them"
    return f"`{spec.submission}`: {what}, at most {limits.submission_mb:,} MiB in all; above stands what is in it."


def _ticked(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
