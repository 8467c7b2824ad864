"""The files of a ``--dataset_dir``: train.csv, questions.csv, extra files, task.md. None of them reveals the split.

Ids: train rows are numbered 0, 1, 2, ... in the data's order; question numbers continue from there, shuffled by `salt`.
Grouped ids keep their form (0013_02): groups are numbered anew, in shuffled order, alike in train and questions. All of
it is computed from (fold, salt), so a view can be written again to check a run.

A cell of ``columns.files`` is a path in the prepared folder. In a view such a file lies at ``<column>/<id><suffix>``,
where the id is that of the first question that names it.
"""

import csv
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from sia_runner.config.task import TableColumns, TableTaskConfig
from sia_runner.tasks.protocol import DatasetView, Fold, TaskError
from sia_runner.tasks.questions import QuestionTable, group_of_id
from sia_runner.tasks.splits import shuffled

ViewPaths = Mapping[tuple[str, str], str]  # (column, path in the source) -> path in the view


def check_files(columns: TableColumns, units: QuestionTable, source: Path) -> None:
    """Raise TaskError unless every column of files exists and every cell names a regular file inside `source`."""
    columns_of_table = [*units.columns, columns.answer]
    for column in columns.files:
        if column not in columns_of_table:
            raise TaskError(f"columns.files: {column!r} is no column; there are: {', '.join(columns_of_table)}")
    root = source.resolve()
    for column, path in sorted({cell for unit in units.answers for cell in file_cells(columns, units, unit)}):
        resolved = (root / path).resolve()
        if not path or not resolved.is_relative_to(root) or not resolved.is_file():
            raise TaskError(f"column {column!r} names {path!r}, which is no file inside {source} (columns.files)")


def file_cells(columns: TableColumns, units: QuestionTable, unit: str) -> Iterator[tuple[str, str]]:
    """Yield (column, path) of the question's files, the answer's among them."""
    if columns.files:
        row = units.row(unit) | {columns.answer: units.answers[unit]}
        yield from ((column, row[column]) for column in columns.files)


def paths_in_view(
    columns: TableColumns, units: QuestionTable, questions: Mapping[str, str], train: Mapping[str, str]
) -> ViewPaths:
    """Return the paths in a view whose ids are `questions` and `train`; files of answers only where they are train."""
    view_paths: dict[tuple[str, str], str] = {}
    for keys, hidden in ((questions, columns.answer), (train, "")):
        for key in sorted(keys, key=lambda key: (len(key), key)):
            for column, path in file_cells(columns, units, keys[key]):
                if column != hidden:
                    view_paths.setdefault((column, path), f"{column}/{key}{PurePosixPath(path).suffix}")
    return view_paths


def write_view(
    spec: TableTaskConfig, units: QuestionTable, source: Path, description: str, fold: Fold, dest: Path, salt: str
) -> DatasetView:
    """Write the view of one fold to `dest`. Raises TaskError where a file is the answer of train and of a question."""
    columns = spec.columns
    if columns.answer_is_file:
        train_answers, asked_answers = ({units.answers[unit] for unit in part} for part in (fold.train, fold.questions))
        if in_both := train_answers & asked_answers:
            problem = f"{min(in_both)} is the answer of a row of train and of a question at once"
            raise TaskError(f"task {spec.name}: {problem}")
    dest.mkdir(parents=True, exist_ok=True)
    questions = shuffled(fold.questions, salt)
    names = _names_in_view([*fold.train, *questions], salt, grouped=columns.grouped_ids)
    header = [columns.id, *units.columns]
    keys = {names[unit]: unit for unit in questions}
    view_paths = paths_in_view(columns, units, keys, {names[unit]: unit for unit in fold.train})
    for (_, path), name in view_paths.items():
        _copy(source / path, dest / name)

    def row(unit: str) -> list[str]:
        fields = zip(units.columns, units.fields[unit], strict=True)
        return [names[unit], *(view_paths.get(field, field[1]) for field in fields)]

    if fold.train:
        answers = ((unit, units.answers[unit]) for unit in fold.train)
        rows = ([*row(unit), view_paths.get((columns.answer, answer), answer)] for unit, answer in answers)
        write_csv(dest / "train.csv", [*header, columns.answer], rows)
    write_csv(dest / "questions.csv", header, (row(unit) for unit in questions))
    if spec.questions_alias:
        _copy(dest / "questions.csv", dest / spec.questions_alias)
    for name, path in spec.data.extra.items():
        _copy(source / path, dest / name)
    (dest / "task.md").write_text(f"{description.rstrip()}\n\n{_contents(spec, header, fold)}", encoding="utf-8")
    (dest / "task.md").chmod(0o444)
    return DatasetView(dest, keys)


def _names_in_view(units: Sequence[str], salt: str, *, grouped: bool) -> dict[str, str]:
    """Return question -> id in the view, for `units` in the order of their numbers."""
    if not grouped:
        return {unit: str(number) for number, unit in enumerate(units)}
    groups = shuffled(sorted({group_of_id(unit) for unit in units}), salt)
    number = {group: f"{rank:04d}" for rank, group in enumerate(groups, start=1)}
    return {unit: f"{number[group_of_id(unit)]}_{unit.partition('_')[2]}" for unit in units}


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a read-only CSV file."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    path.chmod(0o444)


def _copy(source: Path, dest: Path) -> None:
    """Copy a file, never link it: a harness may run as our own user, and the cache must stay as it is."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, dest)
    dest.chmod(0o444)


def _contents(spec: TableTaskConfig, header: Sequence[str], fold: Fold) -> str:
    """Return the part of task.md that is generated for each view."""
    lines = [f"- `questions.csv`: {len(fold.questions):,} questions to answer; columns {ticked(header)}"]
    if fold.train:
        columns = ticked([*header, spec.columns.answer])
        lines.insert(0, f"- `train.csv`: {len(fold.train):,} rows with their answers; columns {columns}")
    if spec.questions_alias:
        lines.append(f"- `{spec.questions_alias}`: the same file as `questions.csv`")
    lines += [f"- `{name}`" for name in spec.data.extra]
    for column in spec.columns.files:
        if fold.train or column != spec.columns.answer:
            lines.append(f"- `{column}/`: the files that the column `{column}` names, as paths in `--dataset_dir`")
    if spec.submission.endswith(".csv"):
        answers = ticked([spec.columns.id, *spec.answer_columns])
        form = (
            f"a CSV file in UTF-8 with the columns {answers} and one row for each of the {len(fold.questions):,} "
            "questions, in any order. A question that is missing, or answered twice, earns nothing."
        )
    else:  # the task's own text describes it
        form = "one file"
        if spec.submission.endswith("/"):
            form = f"a folder with at most {spec.limits.submission_files:,} files, links not among them"
        form += f", at most {spec.limits.submission_mb:,} MiB in all; above stands what is in it."
    lines += ["", "## What to write into `--working_dir`", "", f"`{spec.submission}`: {form}", ""]
    return "\n".join(["## Files in `--dataset_dir`", "", *lines])


def ticked(names: Sequence[str]) -> str:
    """Return the names as code in Markdown, with commas between."""
    return ", ".join(f"`{name}`" for name in names)
