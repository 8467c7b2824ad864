"""The rows of any text file: the cells of a CSV line, a JSON object or pair, a line of text, a file in a zip."""

import csv
import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

MOST = 32 << 20  # bytes read of one file
_WIDE = 64  # cells of a list of scalars that still counts as one row
_SEPARATORS = re.compile(r"[\t,;:=|]+")
Record = frozenset[str]


def plain(cell: object) -> str:
    """Return a cell in the form in which its spellings are compared."""
    return unicodedata.normalize("NFC", str(cell)).strip(" \t\r\n'\"()[]{}").casefold()


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file of a view by its header; empty where there is none."""
    csv.field_size_limit(1 << 30)
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def records_of(path: Path) -> Iterator[Record]:
    """Yield rows of `path`, and of the members where it is a zip; none of other binary files."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist()[:1000]:
                with archive.open(member) as stream:
                    yield from records(stream.read(MOST), member.filename)
        return
    with path.open("rb") as stream:
        yield from records(stream.read(MOST), path.name)


def records(data: bytes, name: str) -> Iterator[Record]:
    """Yield rows of a file's content, each as a set of cells, where a row has several. Binary files have none."""
    if b"\0" in data[:4096]:
        return
    text = data.decode("utf-8-sig", "replace")
    readers: list[Callable[[str], Iterable[Iterable[object]]]] = [_lines]
    if name.endswith((".json", ".jsonl", ".ndjson")):
        readers = [_json]
    elif name.endswith((".csv", ".tsv")):
        readers = [_table]
    for row in chain.from_iterable(reader(text) for reader in readers):
        cells = frozenset(plain(cell) for cell in row) - {""}
        if len(cells) > 1:
            yield cells


def _table(text: str) -> Iterator[list[str]]:
    csv.field_size_limit(1 << 30)
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ";" if ";" in text.partition("\n")[0] else ","
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    except csv.Error:
        yield from _lines(text)


def _lines(text: str) -> Iterator[list[str]]:
    """Split lines at the usual separators, and at blanks: `17 B`, `17: B`, `"17": "B",`.

    Of a long line, yield neighbouring pairs.
    """
    for line in text.splitlines():
        for cells in (_SEPARATORS.split(line), line.split()):
            if len(cells) <= _WIDE:
                yield cells
            else:
                yield from map(list, pairwise(cells))


def _json(text: str) -> Iterator[Sequence[object]]:
    try:
        yield from _of_tree(json.loads(text))
    except (ValueError, RecursionError):
        for line in text.splitlines():
            try:
                yield from _of_tree(json.loads(line))
            except (ValueError, RecursionError):
                yield from _lines(line)


def _of_tree(tree: Any) -> Iterator[Sequence[object]]:
    """Yield the scalars of each object, each key with its scalar, and short lists of scalars."""
    if isinstance(tree, dict):
        scalars = {key: value for key, value in tree.items() if not isinstance(value, dict | list)}
        yield list(scalars.values())
        yield from ([key, value] for key, value in scalars.items())
        for key, value in tree.items():
            if isinstance(value, dict):
                yield [key, *(inner for inner in value.values() if not isinstance(inner, dict | list))]
        children = tree.values()
    elif isinstance(tree, list):
        children = tree
        if len(tree) <= _WIDE and not any(isinstance(child, dict | list) for child in tree):
            yield tree
    else:
        return
    for child in children:
        yield from _of_tree(child)
