"""Build the classic BPF program that refuses system calls a harness never needs (seccomp(2), SECCOMP_MODE_FILTER).

Default allow: the kernel's own permission checks still hold. The filter refuses the kernel surface that escapes are
built from (namespaces, mounts, tracing, bpf, io_uring, keyrings) and what would slip past the limits (files that live
in memory only, wider CPU affinity, limits and priorities of other processes).
"""

import errno
import platform
import struct
from collections.abc import Iterable
from typing import Literal, NamedTuple

from sia_runner.sandbox.protocol import SandboxError

Sockets = Literal["none", "namespace", "network", "loopback"]

# name: (x86_64, aarch64); -1 where the architecture has no such call. From asm/unistd_64.h and asm-generic/unistd.h.
_REFUSED: dict[str, tuple[int, int]] = {
    # the machine's settings
    "acct": (163, 89), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "clock_settime": (227, 112),
    "ioperm": (173, -1), "iopl": (172, -1), "lookup_dcookie": (212, 18), "modify_ldt": (154, -1), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "reboot": (169, 142), "settimeofday": (164, 170), "swapoff": (168, 225),
    "swapon": (167, 224), "syslog": (103, 116), "vhangup": (153, 58),
    # the kernel itself
    "add_key": (248, 217), "bpf": (321, 280), "delete_module": (176, 106), "fanotify_init": (300, 262),
    "finit_module": (313, 273), "init_module": (175, 105), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104), "keyctl": (250, 219), "perf_event_open": (298, 241), "request_key": (249, 218),
    "userfaultfd": (323, 282),
    # namespaces and file systems
    "chroot": (161, 51), "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "open_tree_attr": (467, 467), "pivot_root": (155, 41),
    "setns": (308, 268), "umount2": (166, 39), "unshare": (272, 97),
    # other processes, and wider CPU affinity
    "ioprio_set": (251, 30), "kcmp": (312, 272), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117),
    "sched_setaffinity": (203, 122),
    # memory of no process's address space, which escapes a watchdog that sums processes
    "mq_open": (240, 180), "msgget": (68, 186), "semget": (64, 190), "shmget": (29, 194),
}  # fmt: skip
NUMBERS: dict[str, tuple[int, int]] = _REFUSED | {
    "bind": (49, 200), "chmod": (90, -1), "chown": (92, -1), "clone": (56, 220), "clone3": (435, 435),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "fchownat": (260, 54), "lchown": (94, -1), "listen": (50, 201),
    "lremovexattr": (198, 15), "lsetxattr": (189, 6), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "prctl": (157, 167), "prlimit64": (302, 261), "removexattr": (197, 14), "removexattrat": (466, 466),
    "sched_setattr": (314, 274), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sendmmsg": (307, 269),
    "sendmsg": (46, 211), "sendto": (44, 206), "setpriority": (141, 140), "setsockopt": (54, 208), "setxattr": (188, 5),
    "setxattrat": (463, 463), "socket": (41, 198),
}  # fmt: skip
_OWNER_ONLY = {"chown", "lchown", "fchownat", "setxattr", "lsetxattr", "setxattrat", "removexattr", "lremovexattr",
               "removexattrat"}  # fmt: skip

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag
_PR_SET_DUMPABLE = 4  # a process that is not dumpable hides its open files from the watchdog
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16  # AF_*: a network namespace contains these
_NOT_STREAM = 0xE  # a bit that every socket type but SOCK_STREAM has
_TCP = (0, 6)  # the protocols that mean TCP; others (MPTCP, SCTP) are not seen by Landlock
_MSG_FASTOPEN = 0x20000000  # connects without asking Landlock
_TCP_ULP = 31  # turns a TCP socket into something else

_ALLOW, _ERRNO, _KILL, _NOTIFY = 0x7FFF0000, 0x00050000, 0x80000000, 0x7FC00000
_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ASK = -1


class _Rule(NamedTuple):
    call: str
    error: int  # 0: the call does nothing and reports success; _ASK: a supervisor answers it
    argument: int = -1  # -1: whatever the arguments are
    test: str = ""  # "any of" these bits, "is" or "not in" these values
    values: tuple[int, ...] = ()


def filter_program(*, sockets: Sockets, own_files: bool, machine: str | None = None) -> bytes:
    """Return the filter as an array of ``struct sock_filter`` (8 bytes each).

    `sockets`, which may be made: ``none`` (socket pairs can); ``namespace``, what a network namespace contains;
    ``network``, the same without Unix sockets, which are files of the host; ``loopback``, TCP clients only (see
    `network`). `own_files`: it may change modes and owners; else chmod, which Landlock does not govern, is a no-op.
    """
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        raise SandboxError(f"there is no system call table for this processor ({machine}); x86_64 and aarch64 have one")
    column, audit = ARCHITECTURES[machine]
    code = [_op(_LOAD, 4), _op(_JEQ, audit, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, 0)]
    if column == 0:  # the x32 calls share AUDIT_ARCH_X86_64 and would pass by number
        code += [_op(_JGE, 0x40000000, 0, 1), _op(_RETURN, _ERRNO | errno.ENOSYS)]
    for rule in _rules(sockets, own_files):
        number = NUMBERS[rule.call][column]
        if number >= 0:
            code += _compile(rule, number)
    return b"".join([*code, _op(_RETURN, _ALLOW)])


def _rules(sockets: Sockets, own_files: bool) -> Iterable[_Rule]:
    for call in sorted(_REFUSED):
        yield _Rule(call, errno.EPERM)
    yield _Rule("memfd_create", errno.ENOSYS)
    yield _Rule("memfd_secret", errno.ENOSYS)
    yield _Rule("clone", errno.EPERM, 0, "any of", (_NEW_NAMESPACES,))
    yield _Rule("clone3", errno.ENOSYS)  # its flags are behind a pointer: libc falls back to clone
    yield _Rule("prctl", errno.EPERM, 0, "is", (_PR_SET_DUMPABLE,))
    # limits and priorities: one's own only
    for call in ("prlimit64", "sched_setattr", "sched_setparam", "sched_setscheduler"):
        yield _Rule(call, errno.EPERM, 0, "not in", (0,))
    yield _Rule("setpriority", errno.EPERM, 0, "not in", (0,))
    yield _Rule("setpriority", errno.EPERM, 1, "not in", (0,))
    yield from _socket_rules(sockets)
    if not own_files:
        for call in ("chmod", "fchmodat", "fchmodat2"):
            yield _Rule(call, 0)
        for call in sorted(_OWNER_ONLY):
            yield _Rule(call, errno.EPERM)


def _socket_rules(sockets: Sockets) -> Iterable[_Rule]:
    if sockets == "none":
        yield _Rule("socket", errno.EACCES)
    elif sockets == "namespace":
        yield _Rule("socket", errno.EAFNOSUPPORT, 0, "not in", (_UNIX, _INET, _INET6, _NETLINK))
    elif sockets == "network":
        yield _Rule("socket", errno.EAFNOSUPPORT, 0, "not in", (_INET, _INET6, _NETLINK))
    else:
        yield _Rule("socket", errno.EAFNOSUPPORT, 0, "not in", (_INET, _INET6))
        yield _Rule("socket", errno.EACCES, 1, "any of", (_NOT_STREAM,))
        yield _Rule("socket", errno.EACCES, 2, "not in", _TCP)
        yield _Rule("socket", _ASK)
        yield _Rule("bind", errno.EACCES)
        yield _Rule("listen", errno.EACCES)  # would choose a port by itself
        yield _Rule("setsockopt", errno.EACCES, 2, "is", (_TCP_ULP,))
        for call, argument in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
            yield _Rule(call, errno.EACCES, argument, "any of", (_MSG_FASTOPEN,))


def _compile(rule: _Rule, number: int) -> list[bytes]:
    refuse = _op(_RETURN, _NOTIFY if rule.error == _ASK else _ERRNO | rule.error)
    if rule.argument < 0:
        return [_op(_JEQ, number, 0, 1), refuse]
    body = [_op(_LOAD, 16 + 8 * rule.argument)]  # the low half: every argument tested is a 32-bit int
    if rule.test == "not in":
        for remaining, value in zip(range(len(rule.values), 0, -1), rule.values, strict=True):
            body.append(_op(_JEQ, value, remaining, 0))
        body.append(refuse)
    else:
        jump = _JSET if rule.test == "any of" else _JEQ
        (value,) = rule.values
        body += [_op(jump, value, 0, 1), refuse]
    body.append(_op(_LOAD, 0))
    return [_op(_JEQ, number, 0, len(body)), *body]


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)
