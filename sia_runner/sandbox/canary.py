"""Check that a sandbox works here, by running a small program in it."""

import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from sia_runner.records import Door
from sia_runner.sandbox.protocol import Ended, Ending, Job, Limits, Sandbox, SandboxError

_PLAIN = "open('made', 'w').close()\n"
_CONNECTING = (
    "import os, socket\n"
    "host, port = os.environ['DOOR'].removeprefix('http://').split(':')\n"
    "socket.create_connection((host, int(port)), 10).close()\n" + _PLAIN
)


_EXCEEDING = """
import os, signal, time
children = []
while len(children) < {processes}:
    try:
        child = os.fork()
    except OSError:
        break
    if child == 0:
        time.sleep(60)
        os._exit(0)
    children.append(child)
else:
    open('processes', 'w').close()
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
open('began', 'w').close()
blocks = []
while len(blocks) < {blocks}:
    blocks.append(bytearray(8 << 20))
    blocks[-1][::4096] = b'x' * len(blocks[-1][::4096])
open('memory', 'w').close()
"""
_MEMORY_MB, _PROCESSES = 64, 12


def ignored_limits(run: Callable[[Job], Ended]) -> tuple[str, ...]:
    """Return those of ``memory`` and ``processes`` that a program far exceeds under `run`.

    Raises SandboxError where the program could not even start.
    """
    program = _EXCEEDING.format(processes=4 * _PROCESSES, blocks=3 * _MEMORY_MB // 8)
    with _trial_job(program) as job:
        limits = Limits(seconds=30, memory_mb=_MEMORY_MB, processes=_PROCESSES)
        result = run(replace(job, limits=limits))
        if not (job.work / "began").is_file():
            raise SandboxError(f"no sandbox can be made here: {result.detail or result.ending.value}")
        return tuple(name for name in ("memory", "processes") if (job.work / name).is_file())


def problem(sandbox: Sandbox, door: bool) -> str:
    """Explain in one line why `sandbox` does not work here; return an empty string when it does.

    A trivial harness must run, connect to a socket outside where `door` is set, and write its file.
    """
    with _trial_job(_CONNECTING if door else _PLAIN) as job:
        with _gateway(job.work.parent) if door else contextlib.nullcontext() as gateway:
            result = sandbox.run(replace(job, door=gateway))
        if result.ending is Ending.EXITED and result.exit_code == 0 and (job.work / "made").is_file():
            return ""
    return f"{sandbox.name} cannot make a sandbox here: {result.detail or result.ending.value}"


@contextlib.contextmanager
def _trial_job(program: str) -> Iterator[Job]:
    """Make the folders of one trial job."""
    with tempfile.TemporaryDirectory(prefix="sia-check-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # a harness may run as another user
        for part in ("harness", "data", "work"):
            (folder / part).mkdir()
        (folder / "harness" / "main.py").write_text(program)
        yield Job(folder / "harness", "main.py", folder / "data", folder / "work", folder / "log", Limits(seconds=30))


@contextlib.contextmanager
def _gateway(folder: Path) -> Iterator[Door]:
    """Listen and never answer: the kernel accepts the connection."""
    path = folder / "gateway"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        yield Door(path, {"DOOR": "{url}"})
