"""Bounds on the process that judges a submission: it reads hostile files, and must end when the runner does.

Verifiers and evaluators are the task's own code: bounded against accidents, not jailed.
"""

import ctypes
import os
import resource
import signal
import threading
import time

FILE_BYTES = 256 << 20
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def confine(seconds: int, memory_bytes: int | None = None) -> None:
    """CPU time, file size, address space (None: as it is); no core dumps."""
    bounds = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: FILE_BYTES, resource.RLIMIT_CORE: 0}
    if memory_bytes is not None:
        bounds[resource.RLIMIT_AS] = memory_bytes
    for kind, bound in bounds.items():
        _, hard = resource.getrlimit(kind)
        allowed = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (allowed, allowed))


def confine_program(seconds: int) -> None:
    """Before a program of the task starts: bounds, and killed when the thread that waits for it is gone.

    Its memory is its own affair (an evaluator may load a GPU library).
    """
    confine(seconds)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_parent() -> None:
    """End this process when its parent has gone. Not by PDEATHSIG: that follows the thread that started us, which may
    end long before the runner does."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
