"""Questions and answers that are files: a cell of ``columns.files`` is a path in the prepared folder.

In a view such a file lies at ``<column>/<id><suffix>``, where the id is that of the question that names it; of several
the first that is asked. So the name depends on nothing but the view's keys, and can be told again when a run is judged.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from sia_runner.schema.task import Columns
from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.units import Units

Names = Mapping[tuple[str, str], str]  # (column, path in the source) -> path in the view


def check_files(columns: Columns, units: Units, source: Path) -> None:
    """Every column of files is there, and every cell names a regular file inside `source`. Raises TaskError."""
    known = [*units.columns, columns.answer]
    for column in columns.files:
        if column not in known:
            raise TaskError(f"columns.files: {column!r} is no column; there are: {', '.join(known)}")
    root = source.resolve()
    for column, path in sorted({cell for unit in units.answers for cell in cells(columns, units, unit)}):
        place = (root / path).resolve()
        if not path or not place.is_relative_to(root) or not place.is_file():
            raise TaskError(f"column {column!r} names {path!r}, which is no file inside {source} (columns.files)")


def cells(columns: Columns, units: Units, unit: str) -> Iterator[tuple[str, str]]:
    """(column, path) of the unit's files, the answer's among them."""
    if columns.files:
        row = dict(zip(units.columns, units.fields[unit], strict=True)) | {columns.answer: units.answers[unit]}
        yield from ((column, row[column]) for column in columns.files)


def answers_of(columns: Columns, units: Units, some: Iterable[str]) -> set[str]:
    """The files that are answers of these units."""
    return {units.answers[unit] for unit in some} if columns.answer_is_file else set()


def names(columns: Columns, units: Units, asked: Mapping[str, str], taught: Mapping[str, str]) -> Names:
    """`asked`, `taught`: id in the view -> unit. Answers are named for `taught` only."""
    found: dict[tuple[str, str], str] = {}
    for keys, hidden in ((asked, columns.answer), (taught, "")):
        for key in sorted(keys, key=lambda key: (len(key), key)):
            for column, path in cells(columns, units, keys[key]):
                if column != hidden:
                    found.setdefault((column, path), f"{column}/{key}{PurePosixPath(path).suffix}")
    return found
