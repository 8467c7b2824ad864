"""Reads the CSV files of a task: trusted files, but a mistake in them gets one clear line."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sia_runner.tasks.protocol import TaskError


@dataclass(frozen=True, slots=True)
class Rows:
    """A CSV file by id. `cells` of a row are in the order of `columns`, the id column left out."""

    columns: list[str]
    by_id: Mapping[str, list[str]]


def read_rows(path: Path, id_column: str) -> Rows:
    csv.field_size_limit(1 << 30)  # one case of a legal task exceeds the default of 128 KiB
    try:
        text = path.read_bytes().decode("utf-8-sig")  # at once: the codec's incremental decoder is several times slower
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"{path}: cannot be read as CSV in UTF-8: {error}") from error
    header = lines[0] if lines else []
    if header.count(id_column) != 1:
        raise TaskError(f"{path}: needs one column {id_column!r} (columns.id); it has: {', '.join(header) or 'none'}")
    place = header.index(id_column)
    by_id: dict[str, list[str]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) != len(header):
            raise TaskError(f"{path}: row {number} has {len(line)} cells, the header has {len(header)}")
        if line[place] in by_id:
            raise TaskError(f"{path}: row {number} repeats the id {line[place]!r}")
        by_id[line[place]] = line[:place] + line[place + 1 :]
    return Rows(header[:place] + header[place + 1 :], by_id)
