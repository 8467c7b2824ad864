"""Readers of a task's CSV files. The files are trusted; a mistake in them gets one clear line."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sia_runner.tasks.protocol import TaskError


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a CSV file by id. `cells` of a row are in the order of `columns`, the id column left out."""

    columns: list[str]
    by_id: Mapping[str, list[str]]


def read_rows(path: Path, id_column: str) -> Rows:
    """Read a CSV file in UTF-8 whose column `id_column` is unique. Raises TaskError."""
    csv.field_size_limit(1 << 30)  # one case of a legal task exceeds the default of 128 KiB
    try:
        text = path.read_bytes().decode("utf-8-sig")  # at once: the codec's incremental decoder is several times slower
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"{path}: cannot be read as CSV in UTF-8: {error}") from error
    header = lines[0] if lines else []
    if header.count(id_column) != 1:
        raise TaskError(f"{path}: needs one column {id_column!r} (columns.id); it has: {', '.join(header) or 'none'}")
    id_index = header.index(id_column)
    by_id: dict[str, list[str]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) != len(header):
            raise TaskError(f"{path}: row {number} has {len(line)} cells, the header has {len(header)}")
        if line[id_index] in by_id:
            raise TaskError(f"{path}: row {number} repeats the id {line[id_index]!r}")
        by_id[line[id_index]] = line[:id_index] + line[id_index + 1 :]
    return Rows(header[:id_index] + header[id_index + 1 :], by_id)
