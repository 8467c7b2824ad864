"""The honest way to know whether a sandbox works here: run something in it."""

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sia_runner.records import Door
from sia_runner.sandbox.protocol import Ending, Job, Limits, Sandbox

_PLAIN = "open('made', 'w').close()\n"
_THROUGH_A_DOOR = (
    "import os, socket\n"
    "host, port = os.environ['DOOR'].removeprefix('http://').split(':')\n"
    "socket.create_connection((host, int(port)), 10).close()\n" + _PLAIN
)


def problem(sandbox: Sandbox, door: bool) -> str:
    """Why `sandbox` does not work here, in one line; empty when a trivial harness ran, connected to a socket outside if
    that is asked (`door`), and wrote its file."""
    with tempfile.TemporaryDirectory(prefix="sia-check-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # a harness may run as another user
        for part in ("harness", "data", "work"):
            (folder / part).mkdir()
        (folder / "harness" / "main.py").write_text(_THROUGH_A_DOOR if door else _PLAIN)
        with _gateway(folder) if door else contextlib.nullcontext() as opened:
            work, limits = folder / "work", Limits(seconds=30)
            job = Job(folder / "harness", "main.py", folder / "data", work, folder / "log", limits, door=opened)
            ended = sandbox.run(job)
        if ended.ending is Ending.EXITED and ended.exit_code == 0 and (work / "made").is_file():
            return ""
    return f"{sandbox.name} cannot make a sandbox here: {ended.detail or ended.ending.value}"


@contextlib.contextmanager
def _gateway(folder: Path) -> Iterator[Door]:
    """Something that listens and says nothing: the kernel takes the connection."""
    path = folder / "gateway"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        yield Door(path, {"DOOR": "{url}"})
