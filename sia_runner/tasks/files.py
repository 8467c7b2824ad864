"""Questions and answers that are files: a cell of ``columns.files`` is a path in the prepared folder.

In a view such a file lies at ``<column>/<id><suffix>``, where the id is that of the first question that names it. So
the name depends on the view's keys alone, and can be computed again when a run is verified.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from sia_runner.schema.task import Columns
from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.units import Units

ViewPaths = Mapping[tuple[str, str], str]  # (column, path in the source) -> path in the view


def check_files(columns: Columns, units: Units, source: Path) -> None:
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


def file_cells(columns: Columns, units: Units, unit: str) -> Iterator[tuple[str, str]]:
    """Yield (column, path) of the question's files, the answer's among them."""
    if columns.files:
        row = dict(zip(units.columns, units.fields[unit], strict=True)) | {columns.answer: units.answers[unit]}
        yield from ((column, row[column]) for column in columns.files)


def answer_files(columns: Columns, units: Units, questions: Iterable[str]) -> set[str]:
    """Return the files that are answers of these questions."""
    return {units.answers[unit] for unit in questions} if columns.answer_is_file else set()


def paths_in_view(columns: Columns, units: Units, questions: Mapping[str, str], train: Mapping[str, str]) -> ViewPaths:
    """Return (column, source path) -> path in the view.

    `questions` and `train` map the id in the view to the question. Files of answers are included for `train` only.
    """
    view_paths: dict[tuple[str, str], str] = {}
    for keys, hidden in ((questions, columns.answer), (train, "")):
        for key in sorted(keys, key=lambda key: (len(key), key)):
            for column, path in file_cells(columns, units, keys[key]):
                if column != hidden:
                    view_paths.setdefault((column, path), f"{column}/{key}{PurePosixPath(path).suffix}")
    return view_paths
