"""The journal is the record of a run: append-only, one JSON object a line, each with the hash of the line before.

A step is bracketed by `start` and `done`; a step without `done` never counted and is repeated on resume. If it runs as
a job, an entry `job` between the two names that, so that a resume finds it.
"""

import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sia_runner.rundir import RunError

Entry = dict[str, Any]
_FIRST = "0" * 64


class JournalError(RunError):
    """The journal was edited or damaged; the message names the line."""


def read(path: Path) -> tuple[list[Entry], int, str]:
    """Return the entries, the length in bytes of the intact part, and the hash of its last line.

    Only the last line may be cut (a kill while writing); anything else raises JournalError.
    """
    raw = path.read_bytes()
    entries: list[Entry] = []
    previous_hash, intact_bytes = _FIRST, 0
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
        except ValueError:
            raise JournalError(f"{path.name} line {number} is not JSON: the journal was damaged or edited") from None
        if not isinstance(entry, dict) or entry.get("prev") != previous_hash or entry.get("seq") != number:
            raise JournalError(f"{path.name} line {number} does not follow from line {number - 1}: it was edited")
        entries.append(entry)
        previous_hash = hashlib.sha256(line.rstrip(b"\n")).hexdigest()
        intact_bytes += len(line)
    return entries, intact_bytes, previous_hash


class Record:
    """A journal opened for reading; raises RunError if there is none, JournalError if its hash chain is broken."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise RunError(f"{path.parent}: no run there ({path.name} is missing)")
        self.entries, self._intact_bytes, self._last = read(path)

    @property
    def head(self) -> str:
        """The hash of the newest line; with a copy of it, any later change of the journal up to there shows."""
        return self._last

    def of(self, event: str) -> Iterator[Entry]:
        """Return the entries of one kind of event, oldest first."""
        return (entry for entry in self.entries if entry["event"] == event)

    def result(self, step: str) -> Entry | None:
        """Return the result of `step` if this or an earlier process did it, else None."""
        return next((entry["result"] for entry in self.of("done") if entry["step"] == step), None)

    def job(self, step: str) -> str | None:
        """Return the newest job that was submitted for `step`; None once the step is done."""
        if self.result(step) is not None:
            return None
        return next((entry["job"] for entry in reversed(self.entries) if _submitted(entry, step)), None)


def _submitted(entry: Entry, step: str) -> bool:
    return entry["event"] == "job" and entry["step"] == step


class Journal(Record):
    """The journal of the only writer of a run directory (see lease.py); every append is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        path.touch()
        super().__init__(path)
        self._path = path
        self._lock = threading.Lock()  # several candidates may run in parallel
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        dropped = self._drop_partial_line()
        if dropped:
            self.append("recovered", dropped_bytes=dropped)

    def _drop_partial_line(self) -> int:
        """Remove a last line that was cut off; return the number of bytes removed."""
        rest = os.fstat(self._file).st_size - self._intact_bytes
        if rest:
            os.ftruncate(self._file, self._intact_bytes)
        return rest

    def append(self, event: str, **fields: Any) -> Entry:
        """Append an entry and return it; raises OSError on a full disk, which leaves the journal intact."""
        with self._lock:
            return self._append(event, fields)

    def _append(self, event: str, fields: Entry) -> Entry:
        self._catch_up()
        timestamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"seq": len(self.entries) + 1, "at": timestamp, "event": event, **fields, "prev": self._last}
        # a lone surrogate (hostile output) becomes its JSON escape and reads back as it was
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace")
        if os.write(self._file, line + b"\n") != len(line) + 1:
            self._drop_partial_line()
            raise OSError(errno.ENOSPC, "the disk is full; free some space and resume", str(self._path))
        os.fsync(self._file)
        self._last = hashlib.sha256(line).hexdigest()
        self._intact_bytes += len(line) + 1
        self.entries.append(entry)
        return entry

    def _catch_up(self) -> None:
        """Reread the file if a signal's exception interrupted the append before, which may or may not be on disk."""
        if os.fstat(self._file).st_size == self._intact_bytes:
            return
        entries, self._intact_bytes, self._last = read(self._path)
        self.entries.extend(entries[len(self.entries) :])
        self._drop_partial_line()

    def once(self, step: str, work: Callable[[], Entry]) -> Entry:
        """Return the result of `step` from the journal, or do it now and record it."""
        recorded = self.result(step)
        if recorded is not None:
            return recorded
        self.append("start", step=step)
        start = time.monotonic()
        result = work()
        self.append("done", step=step, seconds=round(time.monotonic() - start, 3), result=result)
        return result

    def close(self) -> None:
        """Close the file; a thread that still works on a step can no longer append."""
        with self._lock:
            os.close(self._file)
            self._file = -1
