"""The relay between a port on a sandbox's loopback and the gateway's Unix socket; it inspects no bytes.

It starts before the harness. The listener exists first, so a harness is never refused. The relay is not the harness's
child (a harness that waits for its children must not wait for ours), and it dies with the process that adopts it: the
supervisor, or bubblewrap's first process. Standard library only (inside bubblewrap little else is mounted), and
`_socket` of it, because `socket` would add 7 ms to every start.

A plan's ``gateway``: `socket` (path of the gateway's, as seen from here), `port` (0: any), `env` (for the harness;
``{url}`` is replaced), `filter` (of the relay's system calls), `way` (``namespace``, or ``loopback``: the host's).
"""

import _socket
import os
import resource
import select
import sys

TYPE_CHECKING = False  # typing would cost milliseconds at every start
if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 1 << 16  # bytes; each direction of a connection holds at most one
_MAX_CLIENTS = 400  # connections at the same time; more wait in the listener's queue
_SPARE = 32  # descriptors for other purposes
_RETRY = 0.01  # seconds until a gateway whose queue was full is asked again
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


class _End:
    __slots__ = ("at_eof", "deaf", "events", "finished", "other", "pending", "sock")

    def __init__(self, sock: "_socket.socket") -> None:
        sock.setblocking(False)
        self.sock, self.other, self.events = sock, self, 0  # `other`: itself until there is one
        self.pending = b""  # could not be sent to it yet
        self.at_eof = self.deaf = self.finished = False  # nothing more comes from it, goes to it, will go to it

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
        self._listener, self._path = listener, path
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

    def receive_listener(self, parent: "_socket.socket", answer: "Callable[[int], None]") -> None:
        """Receive from our parent the descriptor on which the harness will ask, and answer what comes there."""
        _, rights, _, _ = parent.recvmsg(1, 64)
        self._poll.unregister(parent.fileno())
        del self._others[parent.fileno()]
        ((_, _, packed),) = rights
        asking = int.from_bytes(packed, sys.byteorder)
        self.when_readable(asking, lambda: answer(asking))

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
        sides = end, end.other
        for side in sides:
            if side.other.at_eof and not side.pending and not side.finished:
                side.finish()
        client_gone = any(side.deaf and side.sock.family != _socket.AF_UNIX for side in sides)
        if client_gone or all(side.at_eof and not side.pending for side in sides):
            self._close(*sides)  # where the client is gone, the gateway shall know at once
            return
        for side in sides:
            # read also where the gateway has gone away and accepts no more: it may have answered before
            self._want(side, (0 if side.at_eof or side.other.pending else _IN) | (_OUT if side.pending else 0))

    def _want(self, end: _End, events: int) -> None:
        """Wait for `events` on one end; the kernel reports the end of one that is registered, asked for or not."""
        if events != end.events:
            if not events:
                self._poll.unregister(end.sock)
            else:
                (self._poll.modify if end.events else self._poll.register)(end.sock, events)
            end.events = events

    def _close(self, *ends: _End) -> None:
        """Close a client, with its connection to the gateway where there is one."""
        for end in ends:
            self._ends.pop(end.sock.fileno(), None)
            end.sock.close()
        self._clients -= 1
        if self._clients == self._max_clients - 1:
            self._poll.register(self._listener, _IN)


def start_relay(plan: dict, give_up: "Callable[[], None]") -> "tuple[int, Callable[[int], None]]":
    """Start the relay, which drops its privileges by `give_up`, and write its address into ``plan["env"]``.

    Returns its port, and a function that sends it the descriptor on which the harness's filter asks for sockets.
    """
    gateway = plan["gateway"]
    listener = _listen(gateway["port"])
    port = listener.getsockname()[1]
    plan["env"] |= {name: value.replace("{url}", f"http://127.0.0.1:{port}") for name, value in gateway["env"].items()}
    ours, theirs = _socket.socketpair()
    adopter = os.getppid()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            ours.close()
            _become_relay(gateway, listener, theirs, adopter, give_up)
        os._exit(0)
    theirs.close()
    listener.close()
    os.waitpid(child, 0)
    ours.send(b"adopted")
    answer = ours.recv(500)
    if answer != b"ready":
        raise OSError(f"the relay to the gateway did not start: {answer.decode(errors='replace')}")

    def ask(asking: int) -> None:
        packed = asking.to_bytes(4, sys.byteorder)
        ours.sendmsg([b"A"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])

    return port, ask


def _listen(port: int) -> "_socket.socket":
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def _become_relay(
    gateway: dict, listener: "_socket.socket", parent: "_socket.socket", adopter: int, give_up: "Callable[[], None]"
) -> None:
    try:
        os.setsid()  # a harness that signals its own group does not mean us
        _close_others(keep=sorted((listener.fileno(), parent.fileno())))
        relay = Relay(listener, gateway["socket"])
        if gateway["way"] == "loopback":
            from sia_runner.sandbox.network import answer_socket_call  # while files can still be read

            relay.when_readable(parent.fileno(), lambda: relay.receive_listener(parent, answer_socket_call))
        parent.recv(10)  # our parent has gone: "die with your parent" means the adopter from here on
        give_up()
        if os.getppid() != adopter:
            return
        parent.send(b"ready")
        relay.serve()
    except BaseException as error:  # noqa: BLE001 (told to the parent, whatever it is)
        parent.send(str(error).encode(errors="replace")[:400])
    finally:
        os._exit(1)


def _close_others(keep: "list[int]") -> None:
    """Close what the harness's side holds: its output, the status pipe, the supervisor's lock."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nothing, fd)
    first = 3
    for fd in keep:
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
