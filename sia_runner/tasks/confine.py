"""Resource limits on the processes that read hostile submissions, and a watch that ends them with the runner.

Verifiers and evaluators are the task's own code: they are bounded against accidents, not jailed.
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
    """Limit CPU time in seconds, file size and, unless None, address space in bytes; forbid core dumps."""
    bounds = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: FILE_BYTES, resource.RLIMIT_CORE: 0}
    if memory_bytes is not None:
        bounds[resource.RLIMIT_AS] = memory_bytes
    for kind, bound in bounds.items():
        _, hard = resource.getrlimit(kind)
        allowed = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (allowed, allowed))


def confine_program(seconds: int) -> None:
    """Limit a program of the task before it starts; the kernel kills it when the thread that waits for it ends.

    Its memory is not limited: an evaluator may load a GPU library.
    """
    confine(seconds)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_parent() -> None:
    """End this process when its parent process has gone.

    PDEATHSIG does not serve here: it follows the thread that started us, which may end long before the runner does.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
