"""Drop every privilege, then become the harness: the last code of ours inside a sandbox.

Runs as a program inside bubblewrap (where nothing else of ours is mounted, so it imports the standard library only)
and as a function in the child that the `process` backend forks. A relay to the gateway (`door`) is
started first, where the plan has one.

The plan is a dictionary, marshalled because `json` alone would double the start-up time: `argv`, `env`, `cwd`, `uid`
(None: keep), `rlimits` {name: value}, `filter` (bytes, may be empty), `pdeathsig` (bool), `door` (see `door`; None: no
network). Errors are written to the status pipe; a lone ``S`` there means: the harness was started.
"""

import ctypes
import marshal
import os
import resource
import sys

TYPE_CHECKING = False  # as the type checkers understand it; importing `typing` costs more than all the rest here
if TYPE_CHECKING:
    from collections.abc import Callable

PLAN_FD, STATUS_FD, ARGS_FD = 3, 4, 5
OURS = "/sandbox/ours"  # where bubblewrap shows the modules of a door

_PDEATHSIG, _CAPBSET_DROP, _SECCOMP, _NO_NEW_PRIVS, _CAP_AMBIENT = 1, 24, 22, 38, 47
_SIGKILL = 9
_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}  # seccomp(2), which libc does not wrap


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def become(plan: dict, confine: "Callable[[], None] | None" = None, ask: "Callable[[int], None] | None" = None) -> None:
    """Replace this process by ``plan["argv"]``, confined.

    `confine` is called once privileges are gone; `ask` receives the descriptor on which the filter asks a supervisor,
    where it does.
    """
    drop_privileges(plan, confine)
    os.chdir(plan["cwd"])
    asking = filter_calls(plan["filter"], asks=ask is not None)
    if ask:
        ask(asking)
    os.set_inheritable(STATUS_FD, False)
    os.write(STATUS_FD, b"S")
    os.execve(plan["argv"][0], plan["argv"], plan["env"])


def drop_privileges(plan: dict, confine: "Callable[[], None] | None" = None) -> None:
    """Drop every privilege; system calls are filtered later."""
    set_rlimits(plan["rlimits"])
    _drop(plan["uid"])
    if plan["pdeathsig"]:  # after the change of user, which clears it
        _prctl(_PDEATHSIG, _SIGKILL)
    _prctl(_NO_NEW_PRIVS, 1)
    if confine:
        confine()


def become_relay(plan: dict, confine: "Callable[[], None] | None" = None) -> None:
    """Confine the relay like the harness, but for the one Unix socket; it always dies with its parent."""
    drop_privileges({**plan, "pdeathsig": True}, confine)
    filter_calls(plan["door"]["filter"])


def filter_calls(code: bytes, *, asks: bool = False) -> int:
    """Install a seccomp filter, for good; return the descriptor on which it asks where `asks`, else -1."""
    if not code:
        return -1
    program = ctypes.byref(_Program(len(code) // 8, code))
    if not asks:
        _prctl(_SECCOMP, 2, program)
        return -1
    call = _SECCOMP_CALL[os.uname().machine]
    mode, new_listener = ctypes.c_ulong(1), ctypes.c_ulong(8)
    fd = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(call), mode, new_listener, program)
    _checked(min(fd, 0), "seccomp")
    return fd


def set_rlimits(rlimits: dict) -> None:
    """Set resource limits by name, soft and hard, never above the hard limit that holds already."""
    for name, value in rlimits.items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (bound, bound))


def _drop(uid: int | None) -> None:
    """Become `uid` (and the group of that number) where one is given; lose all capabilities in either case."""
    capability = 0
    while _prctl(_CAPBSET_DROP, capability, optional=True):  # until the first number the kernel does not know
        capability += 1
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(_CAP_AMBIENT, 4, optional=True)  # PR_CAP_AMBIENT_CLEAR_ALL
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _checked(ctypes.CDLL(None, use_errno=True).capset(header, nothing), "capset")


def _prctl(option: int, *arguments: object, optional: bool = False) -> bool:
    words = [word if not isinstance(word, int) else ctypes.c_ulong(word) for word in arguments]
    words += [ctypes.c_ulong(0)] * (4 - len(words))
    result = ctypes.CDLL(None, use_errno=True).prctl(option, *words)
    if not optional:
        _checked(result, f"prctl {option}")
    return result == 0


def _checked(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def main() -> None:
    """Read the plan and become the harness, as a program inside bubblewrap."""
    with open(PLAN_FD, "rb") as file:
        plan = marshal.load(file)  # noqa: S302 (written by the supervisor)
    sys.path.append(OURS)
    start(plan)


def start(plan: dict) -> None:
    """Start the relay where the plan has one, and become the harness; report a failure on the status pipe."""
    try:
        if plan["door"]:
            from sia_runner.sandbox import relay

            relay.start_relay(plan, lambda: become_relay(plan))
        become(plan)
    except BaseException as error:  # noqa: BLE001 (reported to the supervisor, whatever it is)
        os.write(STATUS_FD, f"E{error}".encode(errors="replace")[:500])
        sys.exit(127)


if __name__ == "__main__":
    main()
