"""Helpers of this machine: folders, threads, processes. Imports nothing heavy: the help page needs it at once."""

import atexit
import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import sia_runner

if TYPE_CHECKING:
    import subprocess

_PACKAGE = Path(sia_runner.__file__).resolve().parent
_GC_THRESHOLDS = gc.get_threshold()


def postpone_garbage_collection() -> None:
    """Collect garbage rarely while a run starts: the objects of the start last, and to walk them costs 25 ms of 500."""
    gc.set_threshold(50_000)


def resume_garbage_collection() -> None:
    """Collect garbage as Python does by default: rarely collected answers of models take much memory."""
    gc.set_threshold(*_GC_THRESHOLDS)


def bundled_folder(folder: str) -> Path:
    """Return the folder ``conf``, ``tasks``, ``sweeps`` or ``slurm`` of this installation."""
    in_wheel = _PACKAGE / "_bundled" / folder
    return in_wheel if in_wheel.is_dir() else _PACKAGE.parent / folder


def process_count() -> int:
    """Return how many processes torchrun started, on all nodes; 1 if this one was started without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def cache_dir() -> Path:
    """Return the folder of prepared data and environments, shared by all runs (``SIA_CACHE`` or the XDG cache)."""
    folder = os.environ.get("SIA_CACHE")
    if folder:
        return Path(folder).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sia_runner"


T = TypeVar("T")
R = TypeVar("R")


def run_parallel(work: Callable[[T], R], items: Iterable[T], workers: int) -> list[R]:
    """Return the results in the order of `items`, by threads; an interrupt does not wait for running ones."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(workers, thread_name_prefix="parallel")
    try:
        results = list(pool.map(work, items))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return results


def exit_with_parent(stream: IO[bytes]) -> None:
    """Start a thread that ends this process at once when the other end of the stream closes."""

    def watch() -> None:
        stream.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


class PrestartedProcess:
    """A reserve of at most one process that `start` makes, which must end when its standard input is closed."""

    def __init__(self, start: "Callable[[], subprocess.Popen[bytes]]") -> None:
        self._start = start
        self._waiting: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self.dismiss)

    def warm(self) -> None:
        """Start a process if none is waiting."""
        with self._lock:
            if self._waiting is None:
                self._waiting = self._start()

    def take(self) -> "subprocess.Popen[bytes]":
        """Return the waiting process, or a new one; the caller owns it."""
        with self._lock:
            process, self._waiting = self._waiting, None
        return process if process is not None and process.poll() is None else self._start()

    def dismiss(self) -> None:
        """Stop the waiting process, if there is one."""
        with self._lock:
            process, self._waiting = self._waiting, None
        with contextlib.suppress(OSError), process or contextlib.nullcontext():
            pass  # it closes the streams and waits
