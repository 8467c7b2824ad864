"""A client of a container engine for the supervisor: a few calls of Docker's HTTP API over its Unix socket.

The Docker SDK makes the request that creates the container (see `docker`); here it would take ten times the memory of a
supervisor and a quarter of a second of each run.
"""

import _socket
import json

_ANSWER = 60.0  # seconds an engine may take for one call
_HEADER = 8  # of a frame of an attached stream: which stream, three zero bytes, length in 4 bytes
_OURS = 2  # the number of standard error in it


class EngineError(OSError):
    """A refusal of the engine, as one line of its own words."""


class Engine:
    """A client of one engine.

    `socket`: its path. `version`: of its API, as ``1.41``.
    """

    def __init__(self, socket: str, version: str) -> None:
        self._socket = socket
        self._version = version

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

    def attach(self, container: str) -> "Stream":
        """Attach to its three standard streams; closing this end closes its standard input."""
        sock = self._connect()
        path = f"/v{self._version}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1"
        sock.sendall(
            f"POST {path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            "Content-Length: 0\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):  # byte by byte: what follows belongs to the stream
            more = sock.recv(1)
            if not more:
                raise EngineError("the engine closed the connection to a container")
            head += more
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise EngineError(f"the engine does not attach: {head.splitlines()[0].decode(errors='replace')}")
        return Stream(sock)

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
            raise EngineError(_complaint(content) or f"the engine answered {code}")
        return content.decode(errors="replace")

    def _connect(self) -> "_socket.socket":
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        sock.settimeout(_ANSWER)
        try:
            sock.connect(self._socket)
        except OSError as error:
            raise EngineError(f"the container engine at {self._socket} does not answer: {error}") from None
        return sock


class Stream:
    """The attached streams of one container, taken apart.

    `status`: the bytes of standard error so far.
    """

    def __init__(self, sock: "_socket.socket") -> None:
        self._sock = sock
        self._header = b""
        self._left = 0  # bytes of the current frame still to come
        self._which = 0
        self.status = b""

    def fileno(self) -> int:
        """Return the descriptor, for polling."""
        return self._sock.fileno()

    def send(self, data: bytes) -> None:
        """Write to its standard input."""
        self._sock.sendall(data)

    def set_timeout(self, seconds: "float | None") -> None:
        """Set the timeout of reads in seconds; 0: do not wait."""
        self._sock.settimeout(seconds)

    def finish(self) -> None:
        """Close its standard input."""
        try:
            self._sock.shutdown(_socket.SHUT_WR)
        except OSError:
            return  # it has ended

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def read(self) -> "bytes | None":
        """Read some of its standard output; return None when there is none now, empty bytes at the end."""
        try:
            data = self._sock.recv(1 << 18)
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


def _complaint(body: bytes) -> str:
    try:
        return " ".join(json.loads(body)["message"].split())[:300]
    except (ValueError, KeyError, TypeError):
        return ""
