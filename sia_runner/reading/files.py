"""Bounded reads below a folder that hostile programs wrote into: no links, pipes or devices, never more than asked."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sia_runner.reading.opening import folder_of, opened

MOST = 8 << 20  # bytes of a file that is read whole
ENTRIES = 5_000  # of one folder


class Stamp(NamedTuple):
    """As long as it is the same, a file needs no reading again."""

    mtime_ns: int
    size: int
    inode: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `start` to `end` of a file that has `size`."""

    data: bytes
    start: int
    end: int
    size: int

    @property
    def text(self) -> str:
        return self.data.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Entry:
    """`kind`: file, folder or other (links among them)."""

    name: str
    kind: str
    size: int  # bytes of a file, else 0


def stamp(root: Path, relative: str) -> Stamp | None:
    with opened(root, relative) as file:
        return None if file is None else _stamp(os.fstat(file))


def piece(root: Path, relative: str, start: int = 0, most: int = MOST) -> Piece | None:
    """At most `most` bytes from `start`; a negative `start` counts from the end, as for a tail."""
    with opened(root, relative) as file:
        if file is None:
            return None
        size = os.fstat(file).st_size
        begin = max(0, size + start) if start < 0 else min(start, size)
        data = _read(file, begin, most)
        return Piece(data, begin, begin + len(data), max(size, begin + len(data)))


def text(root: Path, relative: str, most: int = MOST) -> str | None:
    """Its beginning where it is longer than `most` bytes."""
    found = piece(root, relative, 0, most)
    return found and found.text


def json_of(root: Path, relative: str, most: int = MOST) -> Any:
    """None where there is none, where it is no JSON, or where it is longer than `most` bytes."""
    found = piece(root, relative, 0, most)
    if found is None or found.size > most:
        return None
    try:
        return json.loads(found.data)
    except (ValueError, RecursionError):
        return None


def listing(root: Path, relative: str = "") -> list[Entry]:
    """What a folder holds, by name; empty where it is none. At most `ENTRIES`."""
    found: list[Entry] = []
    try:
        folder = folder_of(root, relative)
    except (OSError, ValueError):
        return found
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(found) == ENTRIES:
                    break
                with suppress(OSError):
                    found.append(_entry(entry))
    finally:
        os.close(folder)
    return sorted(found, key=lambda entry: entry.name)


def _entry(entry: "os.DirEntry[str]") -> Entry:
    if entry.is_dir(follow_symlinks=False):
        return Entry(entry.name, "folder", 0)
    if entry.is_file(follow_symlinks=False):
        return Entry(entry.name, "file", entry.stat(follow_symlinks=False).st_size)
    return Entry(entry.name, "other", 0)


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def _read(file: int, start: int, most: int) -> bytes:
    parts: list[bytes] = []
    while most > 0 and (part := os.pread(file, min(most, 1 << 20), start)):
        parts.append(part)
        start, most = start + len(part), most - len(part)
    return b"".join(parts)
