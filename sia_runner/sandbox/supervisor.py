"""The small process that stands over one sandbox. It outlives a runner that is killed -9, long enough to clean up.

Started by `driver` with a plan on standard input, which stays open: its end, or any further byte, means stop. The
result goes to standard output. Both are marshalled dictionaries after their length (4 bytes): `json` alone would double
the start-up time, and both ends are ours. Standard library only, and of it only what starts fast.
"""

import ctypes
import errno
import fcntl
import marshal
import os
import select
import signal
import time

from sia_runner.sandbox import child, workdir
from sia_runner.sandbox.watch import Watch

TYPE_CHECKING = False  # as the type checkers understand it; `typing` is slow to import
if TYPE_CHECKING:
    from sia_runner.sandbox.container import Container

_SUBREAPER = 36  # prctl: orphans below us become our children, wherever they forked to
_LOCK_PATIENCE = 60.0  # seconds that the supervisor before us may take to clean up


def main() -> None:
    """Read a plan, run its sandbox, and write the result."""
    plan = receive(0)
    if plan is not None:
        send(1, _supervise(plan))


def receive(fd: int) -> "dict | None":
    """Return the message on `fd`, or None when the other end went away first."""
    head = _exactly(fd, 4)
    body = _exactly(fd, int.from_bytes(head)) if head else None
    return marshal.loads(body) if body else None  # noqa: S302 (written by our own other end)


def send(fd: int, message: dict) -> None:
    """Write a message to `fd`, unless the other end has gone."""
    body = marshal.dumps(message)
    try:
        os.write(fd, len(body).to_bytes(4) + body)  # far below PIPE_BUF for results: never partial
    except BrokenPipeError:
        return


def _exactly(fd: int, size: int) -> "bytes | None":
    data = b""
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            return None
        data += more
    return data


def _supervise(plan: dict) -> dict:
    if ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0) != 0:
        return _refused(f"cannot become a subreaper: {os.strerror(ctypes.get_errno())}")
    wake = _signals()
    lock = os.open(plan["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    refusal = _wait_for(lock)
    if refusal:
        return _refused(refusal)
    try:
        return _run(plan, wake)
    except OSError as error:
        return _refused(str(error))


def _run(plan: dict, wake: int) -> dict:
    work = plan["work"]
    free = workdir.free_bytes(work)
    if free < plan["limits"]["free"]:
        return _refused(f"only {free >> 20} MiB are left on the disk of {work}")
    owner = None
    if plan["launch"]["uid"] is not None:
        info = os.stat(work)
        owner = (info.st_uid, info.st_gid)
    _clear(plan)
    try:
        _prepare(plan)
        program = _start(plan)
        try:
            watch = Watch(plan, wake, program)
            watch.until_over()
        finally:
            all_ended = program.end()
        return watch.result(all_ended)
    finally:
        workdir.take_back(work, owner)
        _clear(plan)


def _start(plan: dict) -> "child.Child | Container":
    if not plan["container"]:
        return child.start(plan)
    from sia_runner.sandbox import container

    return container.start(plan)


def _prepare(plan: dict) -> None:
    if plan["tmp"]:
        os.mkdir(plan["tmp"], 0o700)
    if plan["launch"]["uid"] is not None:
        workdir.hand_over(plan["work"], plan["launch"]["uid"])
    if plan["copies"]:
        import shutil

        os.mkdir(plan["scratch"], 0o755)
        for source, copy in plan["copies"]:
            shutil.copytree(source, copy)
            for folder, _, names in os.walk(copy):
                os.chmod(folder, 0o755)  # noqa: S103 (so that the harness, a stranger, can read its own copy)
                for name in names:
                    os.chmod(f"{folder}/{name}", 0o644)


def _clear(plan: dict) -> None:
    for folder in (plan["tmp"], plan["scratch"]):
        if not folder or not os.path.lexists(folder):
            continue
        try:
            os.rmdir(folder)
        except OSError:  # not empty, or not a folder: rm follows no link and knows no depth at which it gives up
            os.spawnv(os.P_WAIT, "/bin/rm", ["rm", "-rf", "--", folder])


def _signals() -> int:
    """Turn signals into bytes on the returned descriptor; Ctrl-C is the runner's business."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return reader


def _wait_for(lock: int) -> str:
    """Lock the work folder, which two supervisors never share; return why that failed, or an empty string."""
    end = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return ""
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        if time.monotonic() > end:
            return "another run still works in this work folder"
        if select.select([0], [], [], 0.02)[0]:
            return "stopped by the runner"


def _refused(detail: str) -> dict:
    return {"ending": "not_started", "detail": detail}
