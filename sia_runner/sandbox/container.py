"""A sandboxed program in a container, for the supervisor's watchdog; `child.Child` is the one for a process.

The container's processes are no children of ours, but they are processes of this machine: they are looked up in /proc
below the container's first one (`inside`), and its cgroup is read like one of our own. That first process ends when we
do, because its standard input does.

The client here makes a few calls of Docker's HTTP API: the SDK would take ten times the memory of a supervisor and a
quarter of a second of each run.
"""

import _socket
import contextlib
import json
import os
import time
from collections.abc import Iterator

from sia_runner.sandbox import cgroups, child, launch

_ANSWER = 60.0  # seconds an engine may take for one call
_HEADER = 8  # of a frame of an attached stream: which stream, three zero bytes, length in 4 bytes
_OURS = 2  # the number of standard error in it
_KILLED = 137  # as a shell says SIGKILL
_AT_ONCE = 0.5  # seconds in which a container ends by itself once its input has ended
_PATIENCE = 10.0


class EngineError(OSError):
    """A refusal of the engine, as one line of its own words."""


class EngineClient:
    """A client of the engine at a socket; `version`: of its API, as ``1.41``."""

    def __init__(self, socket: str, version: str) -> None:
        self._socket, self._version = socket, version

    def create(self, request: str) -> str:
        """Create a container from a request body (JSON) and return its id."""
        return json.loads(self._call("POST", "/containers/create", request))["Id"]

    def start(self, container: str) -> int:
        """Start a container and return the pid of its first process on this machine."""
        self._call("POST", f"/containers/{container}/start")
        return json.loads(self._call("GET", f"/containers/{container}/json"))["State"]["Pid"]

    def kill(self, container: str) -> None:
        """Kill a container, if it still runs."""
        self._call("POST", f"/containers/{container}/kill", allowed=(404, 409))  # gone, or ended by itself

    def remove(self, container: str) -> None:
        """Remove a container, if it still exists."""
        self._call("DELETE", f"/containers/{container}?force=1", allowed=(404, 409))  # 409: already under way

    def attach(self, container: str) -> "ContainerStream":
        """Attach to its three standard streams; closing this end closes its standard input."""
        sock = self._connect()
        path = f"/v{self._version}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1"
        sock.sendall(
            f"POST {path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            "Content-Length: 0\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):  # byte by byte: what follows belongs to the stream
            if not (more := sock.recv(1)):
                raise EngineError("the engine closed the connection to a container")
            head += more
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise EngineError(f"the engine does not attach: {head.splitlines()[0].decode(errors='replace')}")
        return ContainerStream(sock)

    def _call(self, method: str, path: str, body: str = "", allowed: "tuple[int, ...]" = ()) -> str:
        sock = self._connect()
        data = body.encode()
        sock.sendall(
            f"{method} /v{self._version}{path} HTTP/1.0\r\nHost: engine\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        answer = b""
        while more := sock.recv(1 << 16):  # 1.0: the answer ends with the connection
            answer += more
        sock.close()
        head, _, content = answer.partition(b"\r\n\r\n")
        code = int(head.split(b" ", 2)[1]) if head else 0
        if not 200 <= code < 400 and code not in allowed:
            complaint = ""
            with contextlib.suppress(ValueError, KeyError, TypeError):
                complaint = " ".join(json.loads(content)["message"].split())[:300]
            raise EngineError(complaint or f"the engine answered {code}")
        return content.decode(errors="replace")

    def _connect(self) -> "_socket.socket":
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        sock.settimeout(_ANSWER)
        try:
            sock.connect(self._socket)
        except OSError as error:
            raise EngineError(f"the container engine at {self._socket} does not answer: {error}") from None
        return sock


class ContainerStream:
    """The attached streams of one container, taken apart; `status`: the bytes of standard error so far."""

    def __init__(self, sock: "_socket.socket") -> None:
        self.sock = sock
        self._header = b""
        self._left = 0  # bytes of the current frame still to come
        self._which = 0
        self.status = b""

    def read(self) -> "bytes | None":
        """Read some of its standard output; return None when there is none now, empty bytes at the end."""
        try:
            data = self.sock.recv(1 << 18)
        except (BlockingIOError, TimeoutError):
            return None
        except OSError:
            return b""
        return (self._output_in(data) or None) if data else b""

    def _output_in(self, data: bytes) -> bytes:
        output = bytearray()
        view = memoryview(data)
        while view:
            if not self._left:
                missing = _HEADER - len(self._header)
                self._header, view = self._header + bytes(view[:missing]), view[missing:]
                if len(self._header) < _HEADER:
                    break
                self._which, self._left = self._header[0], int.from_bytes(self._header[4:], "big")
                self._header = b""
            part, view = view[: self._left], view[self._left :]
            self._left -= len(part)
            if self._which == _OURS:
                self.status = (self.status + bytes(part))[:1000]
            else:
                output += part
        return bytes(output)


class Container:
    """One sandboxed program in a container. Raises OSError where the engine refuses.

    `plan["container"]`: `socket` and `version` of the engine, `request` that creates the container (JSON), `enforced`:
    whether the engine was seen to hold limits; else they are sampled.
    """

    def __init__(self, plan: dict) -> None:
        how, inside = plan["container"], plan["launch"]
        if plan["shared_uid"]:
            inside["rlimits"]["RLIMIT_NPROC"] += child.count_threads(os.getuid())  # it counts every thread of a user
        allowed, self._processor_locks = child.claim_processors(plan["limits"]["cpus"])
        self._engine = EngineClient(how["socket"], how["version"])
        self._name = self._engine.create(how["request"])
        try:
            self._stream = self._engine.attach(self._name)
            self._pid = self._engine.start(self._name)
            # the engine has changed the user already
            message = launch.pack({**inside, "uid": None, "processors": sorted(allowed), "stays": True})
            self._stream.sock.sendall(message)
        except BaseException:
            self._engine.remove(self._name)
            raise
        self.output = self._stream.sock.fileno()
        self.code: int | None = None
        self._measured = cgroups.cgroup_of(self._pid)
        self.group = self._measured if how["enforced"] else None
        self._memory_killer, self._usage = "", (0.0, 0)
        self._tree, self._silent = child.ProcessTree(self._pid), False
        self._stream.sock.settimeout(0)

    def read(self) -> "bytes | None":
        """Read some output; return None when there is none now, empty bytes at its end."""
        data = self._stream.read()
        self._silent |= data == b""
        return data

    def has_ended(self) -> bool:
        """Tell whether the container has ended: its first process reports its exit code, or its stream just ends."""
        _, mark, code = self._stream.status.rpartition(b"X")
        if mark and code.isdigit():
            self.code = int(code)
        elif self._silent:
            self.code = _KILLED
        return self.code is not None

    def processes(self) -> "list[child.ProcessStats]":
        """List its processes, once the harness was started; before that they are the engine's."""
        return self._tree.look() if self._stream.status else []

    def memory_killer(self) -> str:
        """Return what ran out if the kernel killed one of its processes for memory, where the engine has the limit."""
        return self._memory_killer or (self.group.memory_killer() if self.group else "")

    def end(self) -> bool:
        """Kill the container; return False where it does not end."""
        if self._measured:  # the last figures of a cgroup, which disappears with its last process
            self._memory_killer = self.memory_killer()
            self._usage, self.group = (self._measured.cpu_seconds(), self._measured.peak_bytes()), None
        with contextlib.suppress(OSError):  # it has ended
            self._stream.sock.shutdown(_socket.SHUT_WR)  # the end of its standard input
        if self.code is None or not self._ends_within(_AT_ONCE):
            self._engine.kill(self._name)
        return self._ends_within(_PATIENCE)

    def _ends_within(self, seconds: float) -> bool:
        """Wait until the first process is gone or a zombie: the latter only when all others of its container ended."""
        end = time.monotonic() + seconds
        while (process := child.process_stats(self._pid)) and process.state != b"Z":
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        return True

    def remaining_output(self) -> Iterator[bytes]:
        """Yield the output that is still unread, once the container was ended."""
        self._stream.sock.settimeout(_PATIENCE)
        end = time.monotonic() + _PATIENCE
        while not self._silent and time.monotonic() < end:  # a portion may hold nothing of the harness's
            data = self.read()
            if data:
                yield data
                end = time.monotonic() + _PATIENCE

    def start_status(self) -> bytes:
        """Return its status: ``S`` when the harness was started, else ``E`` and the reason."""
        return self._stream.status.rpartition(b"X")[0] or self._stream.status

    def usage(self) -> "tuple[float, int]":
        """Return processor seconds and the peak of memory in bytes."""
        return self._usage

    def remove(self) -> None:
        """Close our end of the streams; the engine itself removes a container that has ended."""
        self._stream.sock.close()
