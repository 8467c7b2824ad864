"""Carry bytes between a port on a sandbox's loopback and the gateway's Unix socket, and inspect none of them.

Standard library only (inside bubblewrap little else is mounted), and `_socket` of it, because `socket` would add 7 ms
to every start.
"""

import _socket
import resource
import select

TYPE_CHECKING = False  # as the type checkers understand it; importing `typing` would cost the start
if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 1 << 16  # bytes; each direction of a connection holds at most one
_MAX_CLIENTS = 400  # connections at the same time; more wait in the listener's queue
_SPARE = 32  # descriptors for other purposes
_RETRY = 0.01  # seconds until a gateway whose queue was full is asked again
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


class _End:
    """One side of a connection.

    `pending` could not be sent to it yet; `at_eof`: nothing more comes from it; `deaf`: it accepts nothing more.
    """

    __slots__ = ("at_eof", "deaf", "events", "finished", "other", "pending", "sock")

    def __init__(self, sock: "_socket.socket") -> None:
        sock.setblocking(False)
        self.sock = sock
        self.other = self  # until there is one
        self.pending = b""
        self.events = 0
        self.at_eof = self.deaf = self.finished = False

    def read(self, chunk: memoryview) -> None:
        try:
            size = self.sock.recv_into(chunk)
        except BlockingIOError:
            return
        except OSError:
            size, self.deaf = 0, True
        if size:
            self.other.send(chunk[:size])
        self.at_eof = not size

    def send(self, data: "bytes | memoryview") -> None:
        count = 0
        try:
            if not self.deaf:
                count = self.sock.send(data)
        except BlockingIOError:
            pass
        except OSError:
            self.deaf = True
        self.pending = b"" if self.deaf else bytes(data[count:])

    def finish(self) -> None:
        """Shut the writing side down once, because the other side sends no more."""
        self.finished = True
        try:
            self.sock.shutdown(_socket.SHUT_WR)
        except OSError:
            self.deaf = True


class Relay:
    """A relay for all connections of one sandbox, in one thread."""

    def __init__(self, listener: "_socket.socket", path: str) -> None:
        self._listener = listener
        self._path = path
        self._poll = select.epoll()
        self._poll.register(listener, _IN)
        self._chunk = memoryview(bytearray(_CHUNK))
        self._ends: dict[int, _End] = {}
        self._waiting: list[_End] = []  # clients for whom the gateway's queue was full
        self._clients = 0
        self._max_clients = min(_MAX_CLIENTS, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE) // 2)
        self._others: dict[int, Callable[[], None]] = {}

    def when_readable(self, fd: int, act: "Callable[[], None]") -> None:
        """Call `act` when `fd` is readable, in the same loop."""
        self._others[fd] = act
        self._poll.register(fd, _IN)

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor of `when_readable`."""
        self._poll.unregister(fd)
        del self._others[fd]

    def serve(self) -> None:
        """Relay until this process is killed."""
        while True:
            for fd, _ in self._poll.poll(_RETRY if self._waiting else -1):
                if fd == self._listener.fileno():
                    self._accept()
                elif fd in self._ends:  # an event before this one may have closed it
                    self._carry(self._ends[fd])
                elif fd in self._others:
                    self._others[fd]()
            waiting, self._waiting = self._waiting, []
            for client in waiting:
                self._connect(client)

    def _accept(self) -> None:
        try:
            sock = _socket.socket(fileno=self._listener._accept()[0])  # type: ignore[attr-defined]  # as `socket` does
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        except OSError:
            return  # it went away while it waited
        self._clients += 1
        if self._clients == self._max_clients:
            self._poll.unregister(self._listener)
        self._connect(_End(sock))

    def _connect(self, client: _End) -> None:
        gateway = _End(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM))
        try:
            gateway.sock.connect(self._path)
        except BlockingIOError:
            gateway.sock.close()
            self._waiting.append(client)
        except OSError:
            gateway.sock.close()
            self._close(client)
        else:
            client.other, gateway.other = gateway, client
            for end in (client, gateway):
                self._ends[end.sock.fileno()] = end
            self._settle(client)

    def _carry(self, end: _End) -> None:
        if end.pending:
            end.send(end.pending)
        if not end.at_eof and not end.other.pending:
            end.read(self._chunk)
        self._settle(end)

    def _settle(self, end: _End) -> None:
        """Set the events to wait for on a connection, or close it."""
        for side in (end, end.other):
            if side.other.at_eof and not side.pending and not side.finished:
                side.finish()
        for side in (end, end.other):
            if side.deaf and side.sock.family != _socket.AF_UNIX:
                return self._end(end)  # the client is gone: the gateway shall know at once
        if end.at_eof and end.other.at_eof and not end.pending and not end.other.pending:
            return self._end(end)
        for side in (end, end.other):
            # read also where the gateway has gone away and accepts no more: it may have answered before
            self._want(side, (0 if side.at_eof or side.other.pending else _IN) | (_OUT if side.pending else 0))
        return None

    def _want(self, end: _End, events: int) -> None:
        """Wait for `events` on one end; without events it is unregistered.

        The kernel reports the end of a connection whether it was asked for or not.
        """
        if events != end.events:
            if not events:
                self._poll.unregister(end.sock)
            elif end.events:
                self._poll.modify(end.sock, events)
            else:
                self._poll.register(end.sock, events)
            end.events = events

    def _end(self, end: _End) -> None:
        for side in (end, end.other):
            del self._ends[side.sock.fileno()]
        end.other.sock.close()
        self._close(end)

    def _close(self, end: _End) -> None:
        end.sock.close()
        self._clients -= 1
        if self._clients == self._max_clients - 1:
            self._poll.register(self._listener, _IN)
