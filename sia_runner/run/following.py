"""Follows a log file that another part of the run appends to, on a thread of its own."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

_STEP = re.compile(r"^step (\d+)/(\d+)\b")
_SECONDS = re.compile(r"· ([\d.]+) s\b")
_MINUTE = 60


class Following:
    """``with Following(log, show, every):`` calls `show` with the newest line, at most once in `every` seconds, and
    with the last one at the end. What stood in the log before is not shown."""

    def __init__(self, log: Path, show: Callable[[str], None], every: float) -> None:
        self._log, self._show, self._every = log, show, every
        self._read = log.stat().st_size if log.is_file() else 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="following", daemon=True)

    def __enter__(self) -> "Following":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ended.wait(self._every):
            self._look()
        self._look()

    def _look(self) -> None:
        if not self._log.is_file():
            return
        with self._log.open("rb") as stream:
            stream.seek(self._read)
            whole = stream.read().rpartition(b"\n")[0]
        if whole:
            self._read += len(whole) + 1
            newest = whole.splitlines()[-1].decode(errors="replace")
            self._show(newest + remaining(newest))


def steps(line: str) -> tuple[int, int] | None:
    """Done and asked for, of a line like ``step 3/16 · …``."""
    found = _STEP.search(line)
    return (int(found[1]), int(found[2])) if found else None


def remaining(line: str) -> str:
    """How long the steps that are left will take at the pace so far, of a line like ``step 3/16 · … · 4.5 s``."""
    step, seconds = _STEP.search(line), _SECONDS.search(line)
    if not step or not seconds or int(step[1]) == 0:
        return ""
    left = float(seconds[1]) / int(step[1]) * (int(step[2]) - int(step[1]))
    if left == 0:
        return ""
    return f" · about {left:.0f} s left" if left < 2 * _MINUTE else f" · about {left / _MINUTE:.0f} min left"
