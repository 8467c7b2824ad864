"""Processes that run a task's own code: a time limit, the whole group killed, output in bounded temporary files."""

import contextlib
import ctypes
import json
import math
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from sia_runner.system import PrestartedProcess

_ROOT = str(Path(__file__).resolve().parents[2])
# -I keeps the user's environment and folder out; so the package is found by its own path, installed or in a checkout.
_WORKER = "import sys; sys.path.insert(0, sys.argv[1]); from sia_runner.tasks.worker import main; main()"
_DEVICES = ("CUDA_VISIBLE_DEVICES",)  # a verifier's GPU is the one that the sandbox was given
_MAX_FILE_BYTES = 256 << 20
_MAX_OUTPUT_BYTES = 64 << 20  # bytes read back of what it printed


_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def limit_resources(seconds: int, memory_bytes: int | None = None) -> None:
    """Limit CPU time in seconds, file size and, unless None, address space in bytes; forbid core dumps."""
    bounds = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: _MAX_FILE_BYTES, resource.RLIMIT_CORE: 0}
    if memory_bytes is not None:
        bounds[resource.RLIMIT_AS] = memory_bytes
    for kind, bound in bounds.items():
        _, hard = resource.getrlimit(kind)
        allowed = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _limit_program(seconds: int) -> None:
    """Limit a program of the task, except its memory (it may load a GPU library); it dies with its waiting thread."""
    limit_resources(seconds)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class ProgramResult(NamedTuple):
    """The result of a program. `exit_code` is None when the time was up."""

    exit_code: int | None
    output: bytes
    errors: str


def run_worker(request: bytes, seconds: float) -> tuple[list[tuple[str, str, float, str]], str]:
    """Run the verifier worker; return (question, kind, value, prediction) per question, or else the error."""
    process = _workers.take()
    try:
        with _group_killed_at_end(process):
            output, _ = process.communicate(request, timeout=seconds)
        answer = json.loads(output)
    except subprocess.TimeoutExpired:
        return [], "time was up"
    except ValueError:
        return [], f"it ended with exit code {process.returncode}"
    return answer.get("outcomes", []), answer.get("error", "")


def verifier_output(request: bytes, seconds: float) -> str:
    """Return what a verifier prints while it runs, for the review of a task."""
    with tempfile.TemporaryFile() as errors:
        process = _start_worker(errors)
        with _group_killed_at_end(process), contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(request, timeout=seconds)
        return _head(errors).decode(errors="replace")


def _start_worker(errors: IO[bytes] | int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    """Start a worker that waits for its request; its output goes to /dev/null in a run: it may hold gold answers."""
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _WORKER, _ROOT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        cwd="/",
        env={"LC_ALL": "C.UTF-8"} | {name: value for name, value in os.environ.items() if name in _DEVICES},
        start_new_session=True,
    )


_workers = PrestartedProcess(_start_worker)
start_next_worker = _workers.warm  # so that it is ready when a harness has ended


def run_program(command: list[str], seconds: float, cwd: Path) -> ProgramResult:
    """Run a program of the task, with a clean environment whose home is `cwd`."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(cwd), "TMPDIR": str(cwd), "LC_ALL": "C.UTF-8"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=cwd,
            env=env,
            start_new_session=True,
            preexec_fn=partial(_limit_program, math.ceil(seconds) + 1),  # noqa: PLW1509 - system calls only
        )
        exit_code: int | None = None
        with _group_killed_at_end(process), contextlib.suppress(subprocess.TimeoutExpired):
            exit_code = _wait(process, seconds)
        return ProgramResult(exit_code, _head(output), _head(errors)[-4096:].decode(errors="replace"))


@contextlib.contextmanager
def _group_killed_at_end(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """Wait for the process with a pidfd, which wakes at once; Popen.wait polls every 50 ms. Raises TimeoutExpired."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:  # Linux before 5.3
        return process.wait(seconds)
    try:
        if not select.select([pidfd], [], [], seconds)[0]:
            raise subprocess.TimeoutExpired(process.args, seconds)
    finally:
        os.close(pidfd)
    return process.wait()


def _head(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read(_MAX_OUTPUT_BYTES)
