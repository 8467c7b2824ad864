"""Tables as people have them: a CSV file or Excel workbook, with separator, encoding and numbers of whoever saved it.

What was understood or left out is noted; a refusal gives the row's number in the user's own file.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sia_runner.tasks.protocol import TaskError

MANY = 20  # different answers, up to which they are listed as choices; of numbers, from which they are measurements
_MISSING = frozenset(("", "na", "n/a", "#n/a", "#nv", "nan", "null", "none", "-", "--", "?", "k.a.", "missing"))
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_GROUP = r"\u00a0\u202f'’"  # between thousands, beside a point or comma
_SYMBOL = re.compile("[€$£¥%]")
_PADDED = re.compile(r"[-+]?0\d+")  # a code
_FORMS = {  # decimal mark -> numbers that are written with it
    ".": re.compile(rf"[-+]?(?:\d+|[1-9]\d{{0,2}}(?:[,{_GROUP}]\d{{3}})+|(?=\.\d))(?:\.\d*)?(?:[eE][-+]?\d+)?"),
    ",": re.compile(rf"[-+]?(?:\d+|[1-9]\d{{0,2}}(?:[.{_GROUP}]\d{{3}})+)(?:,\d+)?"),
}


Strays = dict[str, list[int]]  # column -> the few rows without a number


class UserTable(NamedTuple):
    """The table. `numbers`: of each row in the user's file."""

    columns: list[str]
    rows: list[list[str]]
    numbers: list[int]
    strays: Strays
    notes: list[str]


def read_user_table(path: Path) -> UserTable:
    """Read a CSV file or an Excel workbook. Raises TaskError."""
    csv.field_size_limit(1 << 30)
    try:
        data, notes = path.read_bytes(), list[str]()
        if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
            separator, records = "", _read_workbook(data, notes)
        else:
            separator, records = _read_text(data, notes)
        columns, numbered = _shape(records, notes)
    except OSError as error:
        raise TaskError(f"--csv {path}: cannot be read: {error.strerror}") from error
    except (TaskError, csv.Error) as error:
        raise TaskError(f"--csv {path}: {error}") from error
    rows = [row for _, row in numbered]
    return UserTable(columns, rows, [n for n, _ in numbered], _plain_numbers(columns, rows, separator, notes), notes)


def is_missing(cell: str) -> bool:
    """Return True for a blank cell or a word that says that there is no value."""
    return cell.strip().casefold() in _MISSING


def _read_workbook(data: bytes, notes: list[str]) -> list[list[str]]:
    try:
        from openpyxl import load_workbook

        sheets = load_workbook(io.BytesIO(data), read_only=True, data_only=True).worksheets
        sheets[0].reset_dimensions()  # some programs write wrong ones
        records = [[_cell_text(cell) for cell in row] for row in sheets[0].iter_rows()]
    except ImportError:
        raise TaskError("Excel files need openpyxl: pip install 'sia-runner[tables]', or save it as CSV") from None
    except Exception as error:  # whatever openpyxl meets in another or a damaged file
        raise TaskError(f"no Excel workbook that can be read ({error}); save the table as .xlsx or CSV") from error
    notes.append(f"read as Excel workbook, sheet {sheets[0].title} of {len(sheets)}")
    width = max(map(len, records), default=0)
    return [record + [""] * (width - len(record)) for record in records]


def _cell_text(cell: Any) -> str:
    """Return the cell as the spreadsheet shows it, apart from the form of numbers and dates."""
    value = cell.value
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime) and "h" not in cell.number_format.lower():
        return value.date().isoformat()
    if isinstance(value, int | float) and value == round(value):
        return str(round(value)).zfill(len(cell.number_format) if set(cell.number_format) == {"0"} else 0)
    return "" if value is None else str(value)


def _read_text(data: bytes, notes: list[str]) -> tuple[str, list[list[str]]]:
    encoding, text = _decode(data)
    declared = re.match(r'"?sep=(.)"?\r?\n', text, re.IGNORECASE)  # as Excel does

    def records(separator: str, count: int | None = None) -> list[list[str]]:
        stream = io.StringIO(text[declared.end() :] if declared else text, newline="")
        return list(islice(csv.reader(stream, delimiter=separator), count))

    def fit(separator: str) -> tuple[bool, float]:
        widths = [len(record) for record in records(separator, 200) if record] or [0]
        return widths[0] > 1, widths.count(widths[0]) / len(widths)

    separator = declared[1] if declared else max(_SEPARATORS, key=fit)
    notes.append(f"read as CSV in {encoding}, separated by {_SEPARATORS.get(separator, separator)}")
    return separator, ([[]] if declared else []) + records(separator)


def _decode(data: bytes) -> tuple[str, str]:
    """Return the encoding's name for the user, and the text. Raises TaskError."""
    codecs_by_name = {"UTF-8": "utf-8-sig", "Windows-1252 (it is not UTF-8)": "cp1252"}
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        codecs_by_name = {"UTF-16": "utf-16"}
    elif b"\0" in data[:4096]:
        codecs_by_name = {"UTF-16": "utf-16-be" if data[0] == 0 else "utf-16-le"}
    for name, codec in codecs_by_name.items():
        try:
            return name, data.decode(codec)
        except UnicodeDecodeError:
            continue
    raise TaskError("its encoding is unknown; save it as CSV in UTF-8")


def _shape(records: list[list[str]], notes: list[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the columns and the numbered rows, without rows and columns that hold nothing. Raises TaskError."""
    filled = [(n, record) for n, record in enumerate(records, 1) if any(cell.strip() for cell in record)]
    if len(filled) < 2:
        raise TaskError("no header with rows below it")
    names, rows = [name.strip() for name in filled[0][1]], filled[1:]
    for number, row in rows:
        if len(row) < len(names) or any(cell.strip() for cell in row[len(names) :]):
            raise TaskError(f"row {number} has {len(row)} cells, the header has {len(names)}")
    if blank := sum(map(bool, records)) - len(filled):  # Excel writes ,,,, where something once was
        notes.append(f"rows without any content left out: {blank}")
    if repeated := next((name for name in names if name and names.count(name) > 1), ""):
        places = " and ".join(str(n) for n, name in enumerate(names, 1) if name == repeated)
        raise TaskError(f"columns {places} are both called {repeated!r}; rename all but one")
    used: list[int] = []
    for index, name in enumerate(names):
        cells = [row[index].strip() for _, row in rows]
        counted = cells in ([str(n) for n in range(start, len(cells) + start)] for start in (0, 1))  # as pandas does
        if name or (any(cells) and not counted):
            used.append(index)
            names[index] = name or f"column_{index + 1}"
    if left_out := len(names) - len(used):
        notes.append(f"columns without a name, blank or a count of the rows, left out: {left_out}")
    return [names[index] for index in used], [(number, [row[index] for index in used]) for number, row in rows]


def _plain_numbers(columns: Sequence[str], rows: list[list[str]], separator: str, notes: list[str]) -> Strays:
    """Write numbers like 1.299,50 € or $1,299.50 as 1299.50, in place; return the strays (see `UserTable`)."""
    bare: dict[int, list[str]] = {}
    misfits: dict[int, dict[str, list[int]]] = {}  # column -> decimal mark -> rows that hold no such number
    for index in range(len(columns)):
        cells = [row[index].strip() for row in rows]
        symbols = ["".join(_SYMBOL.findall(cell)) for cell in cells]
        usual, _ = Counter(symbols).most_common(1)[0]
        bare[index] = [_SYMBOL.sub("", cell).strip() if symbols[n] == usual else cell for n, cell in enumerate(cells)]
        by_mark = {
            mark: [n for n, cell in enumerate(bare[index]) if not is_missing(cell) and not form.fullmatch(cell)]
            for mark, form in _FORMS.items()
        }
        options = separator == "," and by_mark["."] and not by_mark[","] and len(set(bare[index])) <= MANY  # like 1,2
        if not options and not any(map(_PADDED.fullmatch, bare[index])):
            misfits[index] = by_mark
    clear = Counter(mark for by in misfits.values() for mark, other in (",.", ".,") if by[other] and not by[mark])
    usual = max(_FORMS, key=lambda mark: (clear[mark], (mark == ",") == (separator == ";")))
    strays: Strays = {}
    for index, by_mark in misfits.items():
        mark = min(by_mark, key=lambda mark: (len(by_mark[mark]), mark != usual))
        if by_mark[mark]:
            strays |= {columns[index]: by_mark[mark]} if len(by_mark[mark]) <= len(rows) / 10 else {}
            continue
        changed: list[str] = []
        for row, cell in zip(rows, bare[index], strict=True):
            plain = re.sub(rf"[{'.' if mark == ',' else ','}{_GROUP}]", "", cell).replace(",", ".")
            if not is_missing(cell) and plain != row[index].strip():
                changed.append(f"{columns[index]} {row[index].strip()!r} as {plain}")
                row[index] = plain
        notes += changed[:1] and [f"numbers read: {changed[0]}"]
    return strays
