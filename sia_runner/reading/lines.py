"""A reader of growing files of JSON lines: each line is read once, an incomplete one is left for the next time."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sia_runner.reading.opening import opened

LONGEST = 4 << 20  # bytes of a line; longer ones are skipped
_CHUNK = 1 << 20


class Line(NamedTuple):
    """One line of a file."""

    start: int  # byte in the file
    data: bytes  # without the line feed


class Lines:
    """The lines of one growing file.

    `offset`: bytes read, of `size`. `restarted`: the file was replaced or truncated, so it is read from its beginning
    and all that was derived from its lines must be dropped. `too_long`: lines skipped for their length.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        self._inode: int | None = None
        self.offset = self.size = self.too_long = 0
        self.restarted = self._skipping = False

    def fresh(self, limit: int = 64 << 20) -> Iterator[Line]:
        """Yield new lines from at most `limit` bytes (but always one line, if one is complete)."""
        self.restarted = False
        with opened(self._root, self._name) as file:
            if file is None:
                return
            status = os.fstat(file)
            if self._inode not in (None, status.st_ino) or status.st_size < self.offset:
                self.restarted, self._skipping, self.offset, self.too_long = True, False, 0, 0
            self._inode, self.size = status.st_ino, status.st_size
            yield from self._lines(file, self.offset + limit)

    def _lines(self, file: int, until: int) -> Iterator[Line]:
        rest = b""
        while (self.offset < until or rest) and (chunk := os.pread(file, _CHUNK, self.offset + len(rest))):
            *complete, rest = (rest + chunk).split(b"\n")
            for data in complete:
                line, skipped = Line(self.offset, data), self._skipping
                self.offset, self._skipping = self.offset + len(data) + 1, False
                if not skipped:
                    yield line
            if self._skipping or len(rest) > LONGEST:
                self.too_long += not self._skipping
                self._skipping, self.offset, rest = True, self.offset + len(rest), b""
            if self.offset >= until:
                return
