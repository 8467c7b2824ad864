"""Runs a judge in a process of its own: a time limit, its whole group killed, output to bounded temporary files."""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_ROOT = str(Path(__file__).resolve().parents[2])
# -I keeps the user's environment and folder out; so the package is found by its own path, installed or in a checkout.
_WORKER = "import sys; sys.path.insert(0, sys.argv[1]); from sia_runner.tasks.worker import main; main()"
_EXECUTE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from sia_runner.tasks.confine import execute; "
    "execute(int(sys.argv[2]), sys.argv[3:])"
)
_KEPT = 64 << 20  # bytes read back of what it printed


@dataclass(frozen=True, slots=True)
class Finished:
    """`exit_code` is None when the time was up."""

    exit_code: int | None
    output: bytes
    errors: str


def run_worker(request: bytes, seconds: float) -> Finished:
    """The verifier worker: one JSON request on stdin, one JSON answer on stdout."""
    return _run([sys.executable, "-I", "-c", _WORKER, _ROOT], request, seconds, Path("/"), {"LC_ALL": "C.UTF-8"})


def judged(done: Finished) -> tuple[list[tuple[str, str, float, str]], str]:
    """What the worker answered: (unit, kind, value, prediction) per question, or else what went wrong."""
    try:
        answer = json.loads(done.output)
    except ValueError:
        return [], "time was up" if done.exit_code is None else f"it ended with exit code {done.exit_code}"
    return answer.get("outcomes", []), answer.get("error", "")


def run_program(command: list[str], seconds: float, cwd: Path) -> Finished:
    """A program of the task, with a clean environment whose home is `cwd`."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(cwd), "TMPDIR": str(cwd), "LC_ALL": "C.UTF-8"}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    cpu_seconds = str(math.ceil(seconds) + 1)
    return _run([sys.executable, "-I", "-c", _EXECUTE, _ROOT, cpu_seconds, *command], b"", seconds, cwd, env)


def _run(command: list[str], request: bytes, seconds: float, cwd: Path, env: Mapping[str, str]) -> Finished:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=errors, cwd=cwd, env=env, start_new_session=True
        )
        try:
            process.communicate(request, timeout=seconds)
            exit_code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            exit_code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Finished(exit_code, _head(output), _head(errors)[-4096:].decode(errors="replace"))


def _head(stream: IO[bytes]) -> bytes:
    stream.seek(0)
    return stream.read(_KEPT)
