"""Bounded readers below a folder that hostile programs wrote into.

No links, pipes or devices are opened, reads have a limit, and growing files of JSON lines are read line by line.
"""

import json
import math
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from sia_runner.records import Json

MAX_BYTES = 8 << 20  # bytes read of one file by default
MAX_ENTRIES = 5_000  # of one folder
MAX_LINE_BYTES = 4 << 20  # bytes of a line; longer ones are skipped
_CHUNK_BYTES = 1 << 20


@contextmanager
def open_file(root: Path, relative: str) -> Generator[int | None]:
    """Yield a file descriptor to read from, or None if `relative` is no regular file below `root` or passes a link."""
    above, _, name = relative.rpartition("/")
    file = None
    with ExitStack() as stack:
        with suppress(OSError, ValueError), open_folder(root, above) as folder:
            # without O_NONBLOCK, opening a pipe would block until it has a writer
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(_checked_part(name), flags, dir_fd=folder)
            stack.callback(os.close, file)
        yield file if file is not None and stat.S_ISREG(os.fstat(file).st_mode) else None


@contextmanager
def open_folder(root: Path, relative: str) -> Generator[int]:
    """Open part by part, so that no part is a link, not even one created a moment ago. Raises OSError, ValueError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(root, flags)
    try:
        for part in relative.split("/") if relative else []:
            below = os.open(_checked_part(part), flags | os.O_NOFOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _checked_part(name: str) -> str:
    if name in ("", ".", ".."):
        raise ValueError(name)
    return name


class FileStamp(NamedTuple):
    """The identity of a file's content: while it is unchanged, the file need not be read again."""

    mtime_ns: int
    size: int
    inode: int

    @staticmethod
    def of(status: os.stat_result) -> "FileStamp":
        """Return the stamp of a file with this status."""
        return FileStamp(status.st_mtime_ns, status.st_size, status.st_ino)


@dataclass(frozen=True, slots=True)
class FileSlice:
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
class FolderEntry:
    """An entry of a folder. `kind` is "file", "folder" or "other" (links are "other")."""

    name: str
    kind: str
    size: int  # bytes of a file, else 0


def file_stamp(root: Path, relative: str) -> FileStamp | None:
    """Return the stamp of a file, or None if it is no regular file below `root`."""
    with open_file(root, relative) as file:
        return None if file is None else FileStamp.of(os.fstat(file))


def read_slice(root: Path, relative: str, start: int = 0, limit: int = MAX_BYTES) -> FileSlice | None:
    """Return at most `limit` bytes from `start`, or None. A negative `start` counts from the end, as for a tail."""
    with open_file(root, relative) as file:
        if file is None:
            return None
        size = os.fstat(file).st_size
        begin = max(0, size + start) if start < 0 else min(start, size)
        data, end = b"", begin
        while end < begin + limit and (part := os.pread(file, min(begin + limit - end, _CHUNK_BYTES), end)):
            data, end = data + part, end + len(part)
        return FileSlice(data, begin, end, max(size, end))


def read_text(root: Path, relative: str, limit: int = MAX_BYTES) -> str | None:
    """Return the first `limit` bytes of a file as text, or None if it cannot be read."""
    chunk = read_slice(root, relative, 0, limit)
    return chunk and chunk.text


def read_tail(path: Path, limit: int) -> str:
    """Return the last `limit` bytes of a file as text; empty where there is no regular file."""
    chunk = read_slice(path.parent, path.name, -limit, limit)
    return chunk.text if chunk else ""


def last_lines(log: Path) -> list[str]:
    """Return the last lines that a job or a worker left on its standard error, without empty ones."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.strip()][-20:]


def regular_files(folder: Path) -> Iterator[Path]:
    """Yield the regular files below `folder`, no links: those at the top first, each folder sorted by name."""
    for where, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(where, name) for name in sorted(names)):
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def read_utf8(path: Path, limit: int = MAX_BYTES) -> str | None:
    """Return the text of a file, line ends as they are; None for one that is longer than `limit` or not UTF-8."""
    with suppress(UnicodeDecodeError):
        return path.read_bytes().decode() if path.stat().st_size <= limit else None


def load_json(root: Path, relative: str, limit: int = MAX_BYTES) -> Any:
    """Return the parsed JSON of a file, or None if it is missing, invalid or longer than `limit` bytes."""
    chunk = read_slice(root, relative, 0, limit)
    return _parse_json(chunk.data) if chunk and chunk.size <= limit else None


def _parse_json(data: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(data)


def as_dict(value: Any) -> Json:
    """Return `value` if it is a dict, else an empty one."""
    return cast(Json, value) if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return `value` if it is a list, else an empty one."""
    return cast(list[Any], value) if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """Return `value` if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def as_int(value: Any) -> int | None:
    """Return `value` if it is an integer, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def as_number(value: Any) -> float | None:
    """Return `value` if it is a finite number, else None."""
    with suppress(OverflowError):  # an integer beyond all floats
        return value if isinstance(value, int | float) and math.isfinite(value) else None


def parse_object(data: bytes) -> Json | None:
    """Return the JSON object that `data` is, or None if it is anything else."""
    value = _parse_json(data)
    return cast(Json, value) if isinstance(value, dict) else None


def finite_figures(data: bytes) -> dict[str, float]:
    """Return the finite numbers of a line such as those of curve.jsonl; none if it is no JSON object."""
    return {key: value for key, value in (parse_object(data) or {}).items() if as_number(value) is not None}


def list_folder(root: Path, relative: str = "", limit: int = MAX_ENTRIES) -> list[FolderEntry]:
    """Return at most `limit` entries of a folder by name, or an empty list if it is no folder."""
    result: list[FolderEntry] = []
    with suppress(OSError, ValueError), open_folder(root, relative) as folder, os.scandir(folder) as entries:
        for entry in islice(entries, limit):
            with suppress(OSError):
                is_file = entry.is_file(follow_symlinks=False)
                kind = "file" if is_file else "folder" if entry.is_dir(follow_symlinks=False) else "other"
                size = entry.stat(follow_symlinks=False).st_size if is_file else 0
                result.append(FolderEntry(entry.name, kind, size))
    return sorted(result, key=lambda entry: entry.name)


class JsonLine(NamedTuple):
    """One line of a file."""

    start: int  # byte in the file
    data: bytes  # without the line feed


class LineReader:
    """The lines of one growing file: `offset` of `size` bytes are read, and `too_long` lines were skipped.

    `restarted`: the file was replaced or truncated, so that all that was derived from its lines must be dropped.
    """

    def __init__(self, root: Path, name: str, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._root, self._name, self._max_line_bytes = root, name, max_line_bytes
        self._inode: int | None = None
        self.offset = self.size = self.too_long = 0
        self.restarted = self._skipping = False

    def fresh(self, limit: int = 64 << 20) -> Iterator[JsonLine]:
        """Yield new lines from at most `limit` bytes (but always one line, if one is complete)."""
        self.restarted = False
        with open_file(self._root, self._name) as file:
            if file is None:
                return
            status = os.fstat(file)
            if self._inode not in (None, status.st_ino) or status.st_size < self.offset:
                self.restarted, self._skipping, self.offset, self.too_long = True, False, 0, 0
            self._inode, self.size = status.st_ino, status.st_size
            until, rest = self.offset + limit, b""
            while (self.offset < until or rest) and (chunk := os.pread(file, _CHUNK_BYTES, self.offset + len(rest))):
                *complete, rest = (rest + chunk).split(b"\n")
                for data in complete:
                    line, skipped = JsonLine(self.offset, data), self._skipping
                    self.offset, self._skipping = self.offset + len(data) + 1, False
                    if not skipped:
                        yield line
                if self._skipping or len(rest) > self._max_line_bytes:
                    self.too_long += not self._skipping
                    self._skipping, self.offset, rest = True, self.offset + len(rest), b""
                if self.offset >= until:
                    return
