"""Bounds on the process that judges a submission: it reads hostile files, and must end when the runner does.

Verifiers and evaluators are the task's own code: bounded against accidents, not jailed.
"""

import ctypes
import os
import resource
import signal

FILE_BYTES = 256 << 20
_PR_SET_PDEATHSIG = 1


def confine(seconds: int, memory_bytes: int | None = None) -> None:
    """CPU time, file size, address space (None: as it is); no core dumps; killed when the parent dies."""
    bounds = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: FILE_BYTES, resource.RLIMIT_CORE: 0}
    if memory_bytes is not None:
        bounds[resource.RLIMIT_AS] = memory_bytes
    for kind, bound in bounds.items():
        _, hard = resource.getrlimit(kind)
        allowed = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (allowed, allowed))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def execute(seconds: int, command: list[str]) -> None:
    """Become `command`, confined; its memory is its own affair (an evaluator may load a GPU library)."""
    confine(seconds)
    os.execv(command[0], command)  # noqa: S606 - a list, no shell
