"""The runs that the dashboard reads: one index for all requests, and the runs that were opened last."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sia_runner.results.index import RunIndex, RunRow
from sia_runner.results.run import RunReader

REFRESH_SECONDS = 1.0  # seconds between two refreshes of the same run or list
_READ_SECONDS = 0.25  # seconds of reading per refresh, if many runs are new
_INCOMPLETE_REFRESH_SECONDS = 0.2  # seconds between two refreshes of a run whose ledger is still being added up
_MAX_OPEN_RUNS = 6  # kept open
_MAX_INDEX_ENTRIES = 500_000  # questions and calls in all their indexes


class UnknownRunError(Exception):
    """The index has no run at this path."""


class _OpenRun:
    def __init__(self, path: Path) -> None:
        self.run, self.lock = RunReader(path), threading.RLock()
        self.revision, self._refreshed_at = 0, 0.0

    def refresh(self) -> None:
        """Refresh the run if the last refresh is old enough. The caller holds `lock`."""
        interval = REFRESH_SECONDS if self.run.complete else _INCOMPLETE_REFRESH_SECONDS
        if time.monotonic() - self._refreshed_at >= interval:
            self.revision += self.run.refresh()
            self._refreshed_at = time.monotonic()


class OpenRuns:
    """The index and the open runs, for several threads. A file is read at most once in `REFRESH_SECONDS`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._index, self._rows = RunIndex(root), list[RunRow]()
        self._rows_lock, self._runs_lock = threading.Lock(), threading.Lock()
        self._next_refresh, self.revision = 0.0, 0
        self._runs: OrderedDict[str, _OpenRun] = OrderedDict()

    def rows(self) -> list[RunRow]:
        """Return the rows of the index."""
        with self._rows_lock:
            start = time.monotonic()
            if start >= self._next_refresh:
                rows = self._index.refresh(_READ_SECONDS)
                self.revision += rows != self._rows
                self._rows, end = rows, time.monotonic()
                if self.complete:
                    self._next_refresh = end + max(REFRESH_SECONDS, 10 * (end - start))  # spares a slow file system
            return self._rows

    @property
    def complete(self) -> bool:
        """False if some runs of the list were not read yet."""
        return len(self._rows) == len(self._index.paths)

    @contextmanager
    def open(self, path: str) -> Iterator[_OpenRun]:
        """Lend the refreshed run at `path`, as the index names it, to this thread alone. Raises UnknownRunError."""
        with self._runs_lock:
            watched = self._runs.pop(path, None) or _OpenRun(self._folder(path))
            self._runs[path] = watched
            while len(self._runs) > 1 and (len(self._runs) > _MAX_OPEN_RUNS or self._entries() > _MAX_INDEX_ENTRIES):
                self._runs.popitem(last=False)
        with watched.lock:
            watched.refresh()
            yield watched

    def _entries(self) -> int:
        return sum(watched.run.entries for watched in list(self._runs.values()))

    def _folder(self, path: str) -> Path:
        if path not in self._index.paths:
            self.rows()
        if path not in self._index.paths:
            raise UnknownRunError(path)
        return self.root / path
