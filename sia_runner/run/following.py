"""Showing the newest line of a log file that another part of the run appends to, on a separate thread."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

_STEP = re.compile(r"^step (\d+)/(\d+)\b")
_SECONDS = re.compile(r"· ([\d.]+) s\b")
_MINUTE = 60


class Following:
    """A thread that passes new lines of a log file to a function.

    ``with Following(log, show, every):`` calls `show` with the newest line, at most once in `every` seconds, and with
    the last one at the end. Lines that were in the log before are not shown.
    """

    def __init__(self, log: Path, show: Callable[[str], None], every: float) -> None:
        self._log, self._show, self._every = log, show, every
        self._read = log.stat().st_size if log.is_file() else 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="following", daemon=True)

    def __enter__(self) -> "Following":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(self._every):
            self._show_newest()
        self._show_newest()

    def _show_newest(self) -> None:
        if not self._log.is_file():
            return
        with self._log.open("rb") as stream:
            stream.seek(self._read)
            lines = stream.read().rpartition(b"\n")[0]
        if lines:
            self._read += len(lines) + 1
            newest = lines.splitlines()[-1].decode(errors="replace")
            self._show(newest + remaining(newest))


def steps(line: str) -> tuple[int, int] | None:
    """Parse (done, total) from a line like ``step 3/16 · …``; None for any other line."""
    match = _STEP.search(line)
    return (int(match[1]), int(match[2])) if match else None


def remaining(line: str) -> str:
    """Estimate the remaining time from a line like ``step 3/16 · … · 4.5 s``; empty for any other line."""
    step, seconds = _STEP.search(line), _SECONDS.search(line)
    if not step or not seconds or int(step[1]) == 0:
        return ""
    remaining_seconds = float(seconds[1]) / int(step[1]) * (int(step[2]) - int(step[1]))
    if remaining_seconds == 0:
        return ""
    if remaining_seconds < 2 * _MINUTE:
        return f" · about {remaining_seconds:.0f} s left"
    return f" · about {remaining_seconds / _MINUTE:.0f} min left"
