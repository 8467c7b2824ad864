"""Confine a process and its children to given paths and ports with landlock(7), by the standard library and ctypes."""

import ctypes
import os

from sia_runner.sandbox.launch import call_libc

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_DEVICE_NODES = (1 << 6) | (1 << 11)  # MAKE_CHAR, MAKE_BLOCK: never granted
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
# Access bits known to ABI 1, 2 (REFER), 3 (TRUNCATE), 4, 5 (IOCTL_DEV); later ones are not used.
_KNOWN = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_CONNECT, _TCP = 2, 3  # CONNECT_TCP; with BIND_TCP. ABI 4
_UNDER_PATH, _OF_PORT = 1, 2  # kinds of rules
_SCOPES = 3  # abstract Unix sockets | signals, ABI 6


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Port(ctypes.Structure):
    _fields_ = (("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def landlock_abi() -> int:
    """Return the kernel's Landlock ABI; 0 where it has none or has it switched off."""
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


def make_ruleset(read: list[str], write: list[str], devices: list[str], ports: "list[int] | None") -> int:
    """Make a ruleset and return its file descriptor; -1 where the kernel has no Landlock.

    `read` may be read and run, `write` changed, `devices` read and written; paths that do not exist are left out. Of
    TCP only connections to `ports` are allowed (ABI 4); None: all of it, for a process with a network of its own.
    """
    version = landlock_abi()
    if version == 0:
        return -1
    supported = _KNOWN[min(version, 5)]
    rules = _Ruleset(supported, _TCP if version >= 4 and ports is not None else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call(_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    for paths, access in ((read, _READ), (write, supported & ~_DEVICE_NODES), (devices, _READ_FILE | _WRITE_FILE)):
        for path in paths:
            _allow(ruleset, path, access & supported)
    for port in ports or ():
        _call(_ADD, ruleset, _OF_PORT, ctypes.byref(_Port(_CONNECT, port)), ctypes.c_uint32(0))
    return ruleset


def seal() -> None:
    """Confine this thread and its future children to what they have open already."""
    apply_ruleset(make_ruleset([], [], [], ports=[]))


def apply_ruleset(ruleset: int) -> None:
    """Confine this thread and its future children, for good. Needs no_new_privs."""
    if ruleset >= 0:
        _call(_RESTRICT, ruleset, ctypes.c_uint32(0))
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        access = access if os.path.isdir(path) else access & _OF_FILES
        _call(_ADD, ruleset, _UNDER_PATH, ctypes.byref(_PathBeneath(access, parent)), ctypes.c_uint32(0))
    finally:
        os.close(parent)


def _call(number: int, *arguments: object) -> int:
    return call_libc("syscall", ctypes.c_long(number), *arguments, what=f"Landlock call {number}")
