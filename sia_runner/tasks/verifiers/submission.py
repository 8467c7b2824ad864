"""Readers of a hostile CSV submission: streamed, in bounded memory, never more than one answer for a question.

Forgiven: a byte order mark, UTF-16, CRLF or CR line ends, NULs, invalid UTF-8 (the cell then matches nothing), extra
columns, any order of rows, unknown ids. Not forgiven: an id twice, rows that do not fit the header, an unclear
header.
"""

import codecs
import csv
import io
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TextIO

MAX_LINE = 1 << 20  # characters of one line, and of one cell; what is beyond is cut off
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class UnreadableError(Exception):
    """No answer can be taken from the file; the message says why."""


def read_answers(
    path: Path, id_column: str, answer_column: str, ids: Container[str], most_rows: int, most_bytes: int
) -> tuple[dict[str, str], set[str]]:
    """Return (answers by id, ids that are spoiled, which have no answer); ignore ids that are not in `ids`.

    Raises FileNotFoundError when there is no file, UnreadableError when nothing in it can count.
    """
    cells, spoiled = read_cells(path, id_column, [answer_column], ids, most_rows, most_bytes)
    return {unit: answer for unit, (answer,) in cells.items()}, spoiled


def read_cells(
    path: Path, id_column: str, columns: Sequence[str], ids: Container[str], most_rows: int, most_bytes: int
) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Return what `read_answers` returns, for answers of several columns."""
    answers: dict[str, tuple[str, ...]] = {}
    spoiled: set[str] = set()
    with path.open("rb") as raw:
        if path.stat().st_size > most_bytes:
            raise UnreadableError(f"larger than {most_bytes >> 20} MiB")
        encoding = next((name for mark, name in _BOMS.items() if raw.peek(3).startswith(mark)), "utf-8")
        with io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="") as stream:
            rows = _rows(stream, 50 * most_rows)
            header = next(rows, None) or []
            id_index, *cell_indices = (_column(header, name) for name in (id_column, *columns))
            for number, row in enumerate(rows):
                if number >= most_rows:
                    raise UnreadableError(f"more than {most_rows} rows")
                unit = row[id_index].strip() if len(row) > id_index else ""
                if unit not in ids:
                    continue
                fits = len(row) >= len(header) and not any(row[len(header) :])  # empty cells more are forgiven
                if unit in answers or unit in spoiled or not fits:
                    answers.pop(unit, None)
                    spoiled.add(unit)
                else:
                    answers[unit] = tuple(row[index] for index in cell_indices)
    return answers, spoiled


def _rows(stream: TextIO, most_lines: int) -> Iterator[list[str]]:
    """Yield rows that are not empty. A row that the csv module cannot parse counts as empty."""
    csv.field_size_limit(MAX_LINE)
    reader = csv.reader(_lines(stream, most_lines))
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            continue
        if row:
            yield row


def _lines(stream: TextIO, limit: int) -> Iterator[str]:
    """Yield lines without NULs, over-long ones cut; cells may hold line breaks, so that a row has several lines."""
    remaining = limit
    while line := stream.readline(MAX_LINE):
        remaining -= 1
        if remaining < 0:
            raise UnreadableError(f"more than {limit} lines")
        rest = line
        while len(rest) == MAX_LINE and not rest.endswith(("\n", "\r")):
            rest = stream.readline(MAX_LINE)
        yield line.replace("\0", "")


def _column(header: list[str], name: str) -> int:
    indices = [index for index, cell in enumerate(header) if cell.strip() == name]
    if len(indices) != 1:
        header_text = ", ".join(header)[:100] or "an empty file"
        raise UnreadableError(f"its first row must name column {name!r} once; it is: {header_text}")
    return indices[0]
