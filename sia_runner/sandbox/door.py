"""Start the relay from a sandbox to the gateway, before the harness starts.

The listener exists first, so a harness is never refused. The relay is not the harness's child (a harness that waits for
its children must not wait for ours), and it dies with the process that adopts it: the supervisor, or bubblewrap's first
process. Standard library only, and of it what starts fast, as in `relay`.

A plan's ``door``: `socket` (path of the gateway's, as seen from here), `port` (0: any), `env` (for the harness;
``{url}`` is replaced), `filter` (of the relay's system calls), `way` (``namespace``, or ``loopback``: the host's).
"""

import _socket
import os
import sys

from sia_runner.sandbox.relay import Relay

TYPE_CHECKING = False  # as the type checkers understand it; importing `typing` would cost the start
if TYPE_CHECKING:
    from collections.abc import Callable


class Door:
    """A relay that listens on `port`."""

    def __init__(self, port: int, way_in: "_socket.socket") -> None:
        self.port = port
        self._way_in = way_in

    def ask(self, asking: int) -> None:
        """Send the relay the descriptor on which the harness's filter asks for sockets."""
        packed = asking.to_bytes(4, sys.byteorder)
        self._way_in.sendmsg([b"A"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])


def open_door(plan: dict, give_up: "Callable[[], None]") -> Door:
    """Start the relay and write its address into ``plan["env"]``.

    `give_up` is called in the relay, to drop its privileges. Raises OSError where that fails.
    """
    door = plan["door"]
    listener = _listen(door["port"])
    port = listener.getsockname()[1]
    plan["env"] |= {name: value.replace("{url}", f"http://127.0.0.1:{port}") for name, value in door["env"].items()}
    ours, theirs = _socket.socketpair()
    adopter = os.getppid()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            ours.close()
            _become_relay(door, listener, theirs, adopter, give_up)
        os._exit(0)
    theirs.close()
    listener.close()
    os.waitpid(child, 0)
    ours.send(b"adopted")
    answer = ours.recv(500)
    if answer != b"ready":
        raise OSError(f"the relay to the gateway did not start: {answer.decode(errors='replace')}")
    return Door(port, ours)


def _listen(port: int) -> "_socket.socket":
    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def _become_relay(
    door: dict, listener: "_socket.socket", parent: "_socket.socket", adopter: int, give_up: "Callable[[], None]"
) -> None:
    try:
        os.setsid()  # a harness that signals its own group does not mean us
        _let_go(keep=sorted((listener.fileno(), parent.fileno())))
        relay = Relay(listener, door["socket"])
        if door["way"] == "loopback":
            from sia_runner.sandbox.loopback import answer  # while files can still be read

            relay.when_readable(parent.fileno(), lambda: _take_over(parent, relay, answer))
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


def _take_over(parent: "_socket.socket", relay: Relay, answer: "Callable[[int], None]") -> None:
    """Receive the descriptor on which the harness will ask, from the process that is about to become it."""
    _, rights, _, _ = parent.recvmsg(1, 64)
    relay.forget(parent.fileno())
    ((_, _, packed),) = rights
    asking = int.from_bytes(packed, sys.byteorder)
    relay.when_readable(asking, lambda: answer(asking))


def _let_go(keep: "list[int]") -> None:
    """Close what the harness's side holds: its output, the status pipe, the supervisor's lock."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(nothing, fd)
    first = 3
    for fd in keep:
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
