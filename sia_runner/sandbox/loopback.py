"""Give a harness without a network of its own sockets that reach the host's loopback and nothing else.

Landlock knows ports, not addresses, and a filter of system calls sees neither. So the harness makes no socket: its
filter asks for each (seccomp_unotify(2)), and the relay answers with one of its own that is bound to the device `lo`,
which only CAP_NET_RAW could change again. Landlock then leaves it one port of that.
"""

import _socket
import contextlib
import errno
import fcntl
import os
import struct

_RECEIVE, _REPLY, _ADD = 0xC0502100, 0xC0182101, 0x40182103  # SECCOMP_IOCTL_NOTIF_RECV, _SEND, _ADDFD
_REQUEST = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif: id, pid, flags, then the call: nr, arch, ip, arguments
_REFUSAL = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, value, error, flags
_SOCKET = struct.Struct("=QIIII")  # struct seccomp_notif_addfd: id, flags, our descriptor, theirs, its flags
_AT_ONCE = 2  # SECCOMP_ADDFD_FLAG_SEND: the new descriptor is the call's result


def answer(asking: int) -> None:
    """Answer one call of socket(2) that waits on `asking`. The filter lets only TCP over IPv4 or IPv6 ask."""
    request = bytearray(_REQUEST.size)
    try:
        fcntl.ioctl(asking, _RECEIVE, request)
    except OSError:
        return  # the asking process was killed
    number, _, _, _, _, _, family, kind, *_ = _REQUEST.unpack(request)
    try:
        _give(asking, number, family & 0xFFFFFFFF, kind)
    except OSError as error:  # either process may be out of descriptors
        with contextlib.suppress(OSError):  # the process was killed meanwhile
            fcntl.ioctl(asking, _REPLY, _REFUSAL.pack(number, 0, -(error.errno or errno.EACCES), 0))


def _give(asking: int, number: int, family: int, kind: int) -> None:
    sock = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, b"lo")
        sock.setblocking(not kind & _socket.SOCK_NONBLOCK)
        flags = os.O_CLOEXEC if kind & _socket.SOCK_CLOEXEC else 0
        fcntl.ioctl(asking, _ADD, _SOCKET.pack(number, _AT_ONCE, sock.fileno(), 0, flags))
    finally:
        sock.close()
