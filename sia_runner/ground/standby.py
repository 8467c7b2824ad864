"""Processes started before they are needed: their start-up is paid while a harness runs, not between two of them."""

import atexit
import contextlib
import subprocess
import threading
from collections.abc import Callable

Process = subprocess.Popen[bytes]


class Standby:
    """At most one waiting process of a kind.

    What `start` makes must wait for its standard input and end when that ends, so that none outlives the runner.
    """

    def __init__(self, start: Callable[[], Process]) -> None:
        self._start = start
        self._waiting: Process | None = None
        self._lock = threading.Lock()
        atexit.register(self.dismiss)

    def warm(self) -> None:
        """Start one, if none is waiting."""
        with self._lock:
            if self._waiting is None:
                self._waiting = self._start()

    def take(self) -> Process:
        """The waiting process, or a new one; it is the caller's now."""
        with self._lock:
            process, self._waiting = self._waiting, None
        return process if process is not None and process.poll() is None else self._start()

    def dismiss(self) -> None:
        """End the waiting process, if there is one."""
        with self._lock:
            process, self._waiting = self._waiting, None
        if process is not None:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            process.wait()
