"""Processes started ahead of need start up while a harness runs, not between two harness runs."""

import atexit
import contextlib
import subprocess
import threading
from collections.abc import Callable

Process = subprocess.Popen[bytes]


class Standby:
    """A reserve of at most one started process of a kind.

    The process that `start` makes must read its standard input and end when that is closed, so that it does not outlive
    the runner.
    """

    def __init__(self, start: Callable[[], Process]) -> None:
        self._start = start
        self._waiting: Process | None = None
        self._lock = threading.Lock()
        atexit.register(self.dismiss)

    def warm(self) -> None:
        """Start a process if none is waiting."""
        with self._lock:
            if self._waiting is None:
                self._waiting = self._start()

    def take(self) -> Process:
        """Return the waiting process, or a new one; the caller owns it."""
        with self._lock:
            process, self._waiting = self._waiting, None
        return process if process is not None and process.poll() is None else self._start()

    def dismiss(self) -> None:
        """Stop the waiting process, if there is one."""
        with self._lock:
            process, self._waiting = self._waiting, None
        if process is not None:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            process.wait()
