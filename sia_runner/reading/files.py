"""Bounded reads below a folder that hostile programs wrote into: no links, pipes or devices, never more than asked."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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


@contextmanager
def opened(root: Path, relative: str) -> Iterator[int | None]:
    """A file descriptor to read from; None where `relative` is no regular file below `root`, or a link leads there."""
    descriptor = None
    with suppress(OSError, ValueError):
        descriptor = _open(root, relative)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


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
        folder = _folder(root, relative)
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


def _open(root: Path, relative: str) -> int:
    above, _, name = relative.rpartition("/")
    folder = _folder(root, above)
    try:
        # without O_NONBLOCK a pipe would hold us until somebody writes
        file = os.open(_part(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError(relative)
    return file


def _folder(root: Path, relative: str) -> int:
    """One part after the other, so that none is a link: not even one that was put there a moment ago."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    here = os.open(root, flags)
    for part in relative.split("/") if relative else []:
        try:
            below = os.open(_part(part), flags | os.O_NOFOLLOW, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


def _part(name: str) -> str:
    if name in ("", ".", ".."):
        raise ValueError(name)
    return name
