"""Bounded reads below a folder that hostile programs wrote into: no links, no pipes, no devices."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sia_runner.reading.opening import folder_of, opened

MOST = 8 << 20  # bytes read of one file by default
ENTRIES = 5_000  # of one folder


class Stamp(NamedTuple):
    """The identity of a file's content: while it is unchanged, the file need not be read again."""

    mtime_ns: int
    size: int
    inode: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes `start` to `end` of a file of `size` bytes."""

    data: bytes
    start: int
    end: int
    size: int

    @property
    def text(self) -> str:
        """The bytes decoded as UTF-8, invalid ones replaced."""
        return self.data.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a folder. `kind` is "file", "folder" or "other" (links are "other")."""

    name: str
    kind: str
    size: int  # bytes of a file, else 0


def stamp(root: Path, relative: str) -> Stamp | None:
    """Return the stamp of a file, or None if it is no regular file below `root`."""
    with opened(root, relative) as file:
        return None if file is None else _stamp(os.fstat(file))


def piece(root: Path, relative: str, start: int = 0, limit: int = MOST) -> Piece | None:
    """Return at most `limit` bytes from `start`, or None. A negative `start` counts from the end, as for a tail."""
    with opened(root, relative) as file:
        if file is None:
            return None
        size = os.fstat(file).st_size
        begin = max(0, size + start) if start < 0 else min(start, size)
        data = _read(file, begin, limit)
        return Piece(data, begin, begin + len(data), max(size, begin + len(data)))


def text(root: Path, relative: str, limit: int = MOST) -> str | None:
    """Return the first `limit` bytes of a file as text, or None if it cannot be read."""
    chunk = piece(root, relative, 0, limit)
    return chunk and chunk.text


def json_of(root: Path, relative: str, limit: int = MOST) -> Any:
    """Return the parsed JSON of a file, or None if it is missing, invalid or longer than `limit` bytes."""
    chunk = piece(root, relative, 0, limit)
    if chunk is None or chunk.size > limit:
        return None
    try:
        return json.loads(chunk.data)
    except (ValueError, RecursionError):
        return None


def listing(root: Path, relative: str = "") -> list[Entry]:
    """Return at most `ENTRIES` entries of a folder by name, or an empty list if it is no folder."""
    result: list[Entry] = []
    try:
        folder = folder_of(root, relative)
    except (OSError, ValueError):
        return result
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(result) == ENTRIES:
                    break
                with suppress(OSError):
                    result.append(_entry(entry))
    finally:
        os.close(folder)
    return sorted(result, key=lambda entry: entry.name)


def _entry(entry: "os.DirEntry[str]") -> Entry:
    if entry.is_dir(follow_symlinks=False):
        return Entry(entry.name, "folder", 0)
    if entry.is_file(follow_symlinks=False):
        return Entry(entry.name, "file", entry.stat(follow_symlinks=False).st_size)
    return Entry(entry.name, "other", 0)


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def _read(file: int, start: int, limit: int) -> bytes:
    parts: list[bytes] = []
    while limit > 0 and (part := os.pread(file, min(limit, 1 << 20), start)):
        parts.append(part)
        start, limit = start + len(part), limit - len(part)
    return b"".join(parts)
