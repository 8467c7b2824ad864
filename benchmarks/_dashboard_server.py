"""A dashboard as a process that is asked, and looked at from outside: seconds, memory, bytes it read."""

import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_PATIENCE = 120  # seconds


class Server:
    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self._pid, self.url = process.pid, f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[float, bytes]:
        """Seconds, and the answer."""
        began = time.perf_counter()
        with urllib.request.urlopen(self.url + path, timeout=_PATIENCE) as answer:
            data = answer.read()
        return time.perf_counter() - began, data

    def memory(self) -> float:
        """The highest resident size so far, in MiB."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+)", status)
        return int(match[1]) / 1024 if match else 0.0

    def read(self) -> float:
        """MiB that it read with system calls, sockets included."""
        return int(Path(f"/proc/{self._pid}/io").read_text().split()[1]) / 2**20

    def cpu(self) -> float:
        """Seconds of processor time."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


@contextmanager
def serving(command: Sequence[str], env: Mapping[str, str], port: int) -> Iterator[Server]:
    """Until it answers; ended afterwards."""
    process = subprocess.Popen(command, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        server = Server(process, port)
        until = time.monotonic() + _PATIENCE
        while True:
            if process.poll() is not None:
                errors = process.stderr.read().decode() if process.stderr else ""
                raise RuntimeError(f"{' '.join(command)} ended:\n{errors[-2000:]}")
            with suppress(OSError):
                server.get("/")
                break
            if time.monotonic() > until:
                raise RuntimeError(f"{' '.join(command)} does not answer")
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
