"""Make a network for the `process` backend: a namespace with nothing in it but a loopback that is up."""

import _socket
import ctypes
import fcntl
import os
import struct
import sys

_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP


def isolate() -> None:
    """Leave the host's network, for good.

    Root needs nothing more; any other user gets a user namespace around it, with the same user number inside. Raises
    OSError where the kernel does not allow it.
    """
    user, group = os.geteuid(), os.getegid()
    _unshare(_NEWNET if user == 0 else _NEWUSER | _NEWNET)
    if user != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _raise_loopback()


def possible() -> bool:
    """Tell whether this user can have a network of its own, by trying in a process of its own.

    Permissions alone do not tell.
    """
    import subprocess

    program = [sys.executable, "-I", "-S", "-E", os.path.abspath(__file__)]
    return subprocess.run(program, capture_output=True, check=False, env={}, timeout=30).returncode == 0


def _unshare(flags: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")


def _raise_loopback() -> None:
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        reply = fcntl.ioctl(sock.fileno(), _GET_FLAGS, struct.pack("16sH22x", b"lo", 0))
        (flags,) = struct.unpack_from("H", reply, 16)
        fcntl.ioctl(sock.fileno(), _SET_FLAGS, struct.pack("16sH22x", b"lo", flags | _UP))
    finally:
        sock.close()


if __name__ == "__main__":
    isolate()
