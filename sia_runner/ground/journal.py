"""The journal: the truth of a run. Append only, one JSON object a line, each carrying the hash of the line before.

A step is bracketed by `start` and `done`; what is not `done` was never counted and is done again on resume. Where it
runs as a job, `job` names that between the two, so that a resume finds it.
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
    """Entries, length in bytes of the sound part, hash of its last line.

    Only the last line may be cut (a kill while writing); anything else raises JournalError.
    """
    raw = path.read_bytes()
    entries: list[Entry] = []
    before, sound = _FIRST, 0
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
        except ValueError:
            raise JournalError(f"{path.name} line {number} is no JSON: the journal was damaged or edited") from None
        if not isinstance(entry, dict) or entry.get("prev") != before or entry.get("seq") != number:
            raise JournalError(f"{path.name} line {number} does not follow from line {number - 1}: it was edited")
        entries.append(entry)
        before = hashlib.sha256(line.rstrip(b"\n")).hexdigest()
        sound += len(line)
    return entries, sound, before


class Record:
    """A journal to read. RunError when there is none, JournalError when its chain does not hold."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise RunError(f"{path.parent}: no run there ({path.name} is missing)")
        self.entries, self._sound, self._last = read(path)

    @property
    def head(self) -> str:
        """Hash of the newest line: whoever keeps it can tell later whether anything before it was changed."""
        return self._last

    def of(self, event: str) -> Iterator[Entry]:
        return (entry for entry in self.entries if entry["event"] == event)

    def result(self, step: str) -> Entry | None:
        """What `step` returned, if it was done in this or an earlier process."""
        return next((entry["result"] for entry in self.of("done") if entry["step"] == step), None)

    def job(self, step: str) -> str | None:
        """The newest job that was submitted for `step`, while the step is not done."""
        if self.result(step) is not None:
            return None
        return next((entry["job"] for entry in reversed(self.entries) if _submitted(entry, step)), None)


def _submitted(entry: Entry, step: str) -> bool:
    return entry["event"] == "job" and entry["step"] == step


class Journal(Record):
    """One writer per run directory (see lease.py). Every append is on disk before the next thing happens."""

    def __init__(self, path: Path) -> None:
        path.touch()
        super().__init__(path)
        self._path = path
        self._lock = threading.Lock()  # several candidates may be under way at once
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        dropped = self._drop_the_rest()
        if dropped:
            self.append("recovered", dropped_bytes=dropped)

    def _drop_the_rest(self) -> int:
        """Of a line that was cut; returns its bytes."""
        rest = os.fstat(self._file).st_size - self._sound
        if rest:
            os.ftruncate(self._file, self._sound)
        return rest

    def append(self, event: str, **fields: Any) -> Entry:
        with self._lock:
            return self._append(event, fields)

    def _append(self, event: str, fields: Entry) -> Entry:
        self._catch_up()
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"seq": len(self.entries) + 1, "at": now, "event": event, **fields, "prev": self._last}
        # a lone surrogate (hostile output) becomes its JSON escape and reads back as it was
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace")
        if os.write(self._file, line + b"\n") != len(line) + 1:
            self._drop_the_rest()
            raise OSError(errno.ENOSPC, "the disk is full; free some room and resume", str(self._path))
        os.fsync(self._file)
        self._last = hashlib.sha256(line).hexdigest()
        self._sound += len(line) + 1
        self.entries.append(entry)
        return entry

    def _catch_up(self) -> None:
        """With what is on disk: a signal's exception may have left the append before at any point, written or not."""
        if os.fstat(self._file).st_size == self._sound:
            return
        entries, self._sound, self._last = read(self._path)
        self.entries.extend(entries[len(self.entries) :])
        self._drop_the_rest()

    def once(self, step: str, work: Callable[[], Entry]) -> Entry:
        """The result of `step`: from the journal when it was done before, else by doing it now."""
        known = self.result(step)
        if known is not None:
            return known
        self.append("start", step=step)
        began = time.monotonic()
        result = work()
        self.append("done", step=step, seconds=round(time.monotonic() - began, 3), result=result)
        return result

    def close(self) -> None:
        """Who still works on a step of it afterwards can add nothing."""
        with self._lock:
            os.close(self._file)
            self._file = -1
