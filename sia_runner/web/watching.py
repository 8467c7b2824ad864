"""What the dashboard looks at: one index for all who look, and the runs that were opened last."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sia_runner.reading.index import Index, Row
from sia_runner.reading.run import Run

LEAST = 1.0  # seconds between two looks at the same thing
_SLICE = 0.25  # seconds that one look reads on where many runs are new
_SOON = 0.2  # seconds between two looks at a run whose ledger is still being added up
_RUNS = 6  # kept open
_ENTRIES = 500_000  # questions and calls in all their indexes


class NoRun(Exception):
    """The index knows no run at that path."""


class Watched:
    """A run, its lock, and how often it changed."""

    def __init__(self, path: Path) -> None:
        self.run, self.lock = Run(path), threading.RLock()
        self.revision, self._looked = 0, 0.0

    def refresh(self) -> None:
        """Hold `lock`."""
        if time.monotonic() - self._looked >= (LEAST if self.run.whole else _SOON):
            self.revision += self.run.refresh()
            self._looked = time.monotonic()


class Watching:
    """Safe for several threads. However many look, a file is looked at once in `LEAST` seconds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._index, self._rows = Index(root), list[Row]()
        self._list, self._opened = threading.Lock(), threading.Lock()
        self._next, self.revision = 0.0, 0
        self._runs: OrderedDict[str, Watched] = OrderedDict()

    def rows(self) -> list[Row]:
        with self._list:
            began = time.monotonic()
            if began >= self._next:
                rows = self._index.refresh(_SLICE)
                self.revision += rows != self._rows
                self._rows, ended = rows, time.monotonic()
                if self.whole:
                    self._next = ended + max(LEAST, 10 * (ended - began))  # a slow file system is not kept busy
            return self._rows

    @property
    def whole(self) -> bool:
        """False: some runs of the list were not read yet."""
        return len(self._rows) == len(self._index.paths)

    @contextmanager
    def open(self, path: str) -> Iterator[Watched]:
        """The run at `path` as the index calls it, refreshed, for this thread alone. Raises NoRun."""
        with self._opened:
            watched = self._runs.pop(path, None) or Watched(self._folder(path))
            self._runs[path] = watched
            while len(self._runs) > 1 and (len(self._runs) > _RUNS or self._entries() > _ENTRIES):
                self._runs.popitem(last=False)
        with watched.lock:
            watched.refresh()
            yield watched

    def _entries(self) -> int:
        return sum(watched.run.entries for watched in list(self._runs.values()))

    def _folder(self, path: str) -> Path:
        """Only what the index found: a path that leads elsewhere is no run."""
        if path not in self._index.paths:
            self.rows()
        if path not in self._index.paths:
            raise NoRun(path)
        return self.root / path
