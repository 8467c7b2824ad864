"""Drop every privilege, then become the harness: the last code of ours inside a sandbox.

Runs as a program inside bubblewrap, and as a function in the child that the `process` backend forks and in a container
(`inside`). Where images are, little else of ours is mounted: it imports the standard library only.

The plan is a dictionary, marshalled because `json` alone would double the start-up time: `argv`, `env`, `cwd`, `uid`
(None: keep), `rlimits` {name: value}, `filter` (bytes, may be empty), `pdeathsig` (bool), `gateway` (see `relay`; None:
no network). Errors are written to the status pipe; a lone ``S`` there means: the harness was started.
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
OURS = "/sandbox/ours"  # where modules of ours are shown, as the package that they are part of

_PDEATHSIG, _CAPBSET_DROP, _SECCOMP, _NO_NEW_PRIVS, _CAP_AMBIENT = 1, 24, 22, 38, 47
_SIGKILL = 9
_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}  # seccomp(2), which libc does not wrap


def call_libc(name: str, *arguments: object, what: str = "") -> int:
    """Call a function of the C library; raise OSError where it returns a negative number."""
    result = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what or name}: {os.strerror(code)}")
    return result


def prctl(option: int, *arguments: object, optional: bool = False) -> bool:
    """Set an option of this process; return whether the kernel took it. Raises OSError unless `optional`."""
    words = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in (*arguments, 0, 0, 0, 0)[:4]]
    try:
        call_libc("prctl", option, *words, what=f"prctl {option}")
    except OSError:
        if not optional:
            raise
        return False
    return True


def pack(message: dict) -> bytes:
    """Marshal a message, after its length in 4 bytes, in the format that every Python reads."""
    body = marshal.dumps(message, 2)
    return len(body).to_bytes(4, "big") + body


def receive(fd: int) -> "dict | None":
    """Return the message on `fd`, or None when the other end went away first."""
    data, size = b"", 4
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            return None
        data += more
        if len(data) == 4:
            size += int.from_bytes(data, "big")
    return marshal.loads(data[4:])  # noqa: S302 (written by our own other end)


def reap(child: int) -> int | None:
    """Reap all processes that ended; return the exit code of `child`, as a shell says it, where it was among them."""
    code = None
    try:
        while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
            if reaped[0] == child:
                code = os.waitstatus_to_exitcode(reaped[1])
    except ChildProcessError:
        pass
    return 128 - code if code is not None and code < 0 else code


def report_failure(error: BaseException, status: int = STATUS_FD) -> None:
    """Tell the supervisor why the harness could not be started."""
    os.write(status, f"E{error}".encode(errors="replace")[:500])


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def become(plan: dict, confine: "Callable[[], None] | None" = None, ask: "Callable[[int], None] | None" = None) -> None:
    """Become ``plan["argv"]``: `confine` is called once privileges are gone, `ask` with the filter's descriptor."""
    _drop_privileges(plan, confine)
    os.chdir(plan["cwd"])
    asking = _filter_calls(plan["filter"], asks=ask is not None)
    if ask:
        ask(asking)
    os.set_inheritable(STATUS_FD, False)
    os.write(STATUS_FD, b"S")
    os.execve(plan["argv"][0], plan["argv"], plan["env"])


def become_relay(plan: dict, confine: "Callable[[], None] | None" = None) -> None:
    """Confine the relay like the harness, but for the one Unix socket; it always dies with its parent."""
    _drop_privileges({**plan, "pdeathsig": True}, confine)
    _filter_calls(plan["gateway"]["filter"])


def set_rlimits(rlimits: dict) -> None:
    """Set resource limits by name, soft and hard, never above the hard limit that holds already."""
    for name, value in rlimits.items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (bound, bound))


def _drop_privileges(plan: dict, confine: "Callable[[], None] | None") -> None:
    """Set limits, become ``plan["uid"]`` and its group where there is one, and lose all capabilities in either case."""
    set_rlimits(plan["rlimits"])
    capability = 0
    while prctl(_CAPBSET_DROP, capability, optional=True):  # until the first number the kernel does not know
        capability += 1
    uid = plan["uid"]
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    prctl(_CAP_AMBIENT, 4, optional=True)  # PR_CAP_AMBIENT_CLEAR_ALL
    call_libc("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
    if plan["pdeathsig"]:  # after the change of user, which clears it
        prctl(_PDEATHSIG, _SIGKILL)
    prctl(_NO_NEW_PRIVS, 1)
    if confine:
        confine()


def _filter_calls(code: bytes, *, asks: bool = False) -> int:
    """Install a seccomp filter, for good; return the descriptor on which it asks where `asks`, else -1."""
    if not code:
        return -1
    program = ctypes.byref(_Program(len(code) // 8, code))
    if not asks:
        prctl(_SECCOMP, 2, program)
        return -1
    call = ctypes.c_long(_SECCOMP_CALL[os.uname().machine])
    mode, new_listener = ctypes.c_ulong(1), ctypes.c_ulong(8)
    return call_libc("syscall", call, mode, new_listener, program, what="seccomp")


def start(plan: dict) -> None:
    """Start the relay where the plan has one, and become the harness; report a failure on the status pipe."""
    try:
        if plan["gateway"]:
            from sia_runner.sandbox import relay

            relay.start_relay(plan, lambda: become_relay(plan))
        become(plan)
    except BaseException as error:  # noqa: BLE001 (reported to the supervisor, whatever it is)
        report_failure(error)
        sys.exit(127)


if __name__ == "__main__":
    sys.path.append(OURS)
    received = receive(PLAN_FD) or {}
    os.close(PLAN_FD)
    start(received)
