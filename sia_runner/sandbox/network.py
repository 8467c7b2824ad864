"""The network of the `process` backend: a namespace of its own, or sockets of the host's loopback only.

A namespace has nothing in it but a loopback that is up. Elsewhere Landlock knows ports, not addresses, and a filter
of system calls sees neither. So the harness makes no socket: its filter asks for each (seccomp_unotify(2)), and the
relay answers with one of its own that is bound to the device `lo`, which only CAP_NET_RAW could change again.
Landlock then leaves it one port of that.
"""

import _socket
import contextlib
import errno
import fcntl
import os
import struct

from sia_runner.sandbox.launch import call_libc

_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
_RECEIVE, _REPLY, _ADD = 0xC0502100, 0xC0182101, 0x40182103  # SECCOMP_IOCTL_NOTIF_RECV, _SEND, _ADDFD
_REQUEST = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif: id, pid, flags, then the call: nr, arch, ip, arguments
_REFUSAL = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, value, error, flags
_SOCKET = struct.Struct("=QIIII")  # struct seccomp_notif_addfd: id, flags, our descriptor, theirs, its flags
_AT_ONCE = 2  # SECCOMP_ADDFD_FLAG_SEND: the new descriptor is the call's result


def isolate() -> None:
    """Leave the host's network, for good, for one with a loopback that is up. Raises OSError where that is refused."""
    # not root: in a user namespace, with the same user number inside
    user, group = os.geteuid(), os.getegid()
    call_libc("unshare", _NEWNET if user == 0 else _NEWUSER | _NEWNET)
    if user != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    reply = fcntl.ioctl(sock.fileno(), _GET_FLAGS, struct.pack("16sH22x", b"lo", 0))
    (flags,) = struct.unpack_from("H", reply, 16)
    fcntl.ioctl(sock.fileno(), _SET_FLAGS, struct.pack("16sH22x", b"lo", flags | _UP))
    sock.close()


def answer_socket_call(asking: int) -> None:
    """Answer one call of socket(2) that waits on `asking`. The filter lets only TCP over IPv4 or IPv6 ask."""
    request = bytearray(_REQUEST.size)
    try:
        fcntl.ioctl(asking, _RECEIVE, request)
    except OSError:
        return  # the asking process was killed
    number, _, _, _, _, _, family, kind, *_ = _REQUEST.unpack(request)
    try:
        with contextlib.closing(_socket.socket(family & 0xFFFFFFFF, _socket.SOCK_STREAM)) as sock:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, b"lo")
            sock.setblocking(not kind & _socket.SOCK_NONBLOCK)
            flags = os.O_CLOEXEC if kind & _socket.SOCK_CLOEXEC else 0
            fcntl.ioctl(asking, _ADD, _SOCKET.pack(number, _AT_ONCE, sock.fileno(), 0, flags))
    except OSError as error:  # either process may be out of descriptors
        with contextlib.suppress(OSError):  # the process was killed meanwhile
            fcntl.ioctl(asking, _REPLY, _REFUSAL.pack(number, 0, -(error.errno or errno.EACCES), 0))
