"""The first process in a container: start the harness, and end when the harness's supervisor does.

Standard input brings the plan (marshalled, after its length in 4 bytes) and stays open: it ends when the supervisor
does, however that dies, and with the first process every other one of the container ends. Standard output is the
harness's. Standard error is ours: the status that `launch` reports, and at the end ``X`` and the exit code.

The plan is that of `launch` with `processors` (the ones to run on) and `stays`: whether to wait after the harness's end
until standard input ends, so that its usage can still be read; else this process ends as the harness did. The first
word of its command is replaced by this interpreter, the only one that is known to be here. Standard library only:
nothing else of ours is mounted.
"""

import contextlib
import ctypes
import fcntl
import marshal
import os
import select
import signal
import sys

OURS = "/sandbox/ours"  # where the modules are mounted, as the package that they are part of

_DUMPABLE = 4  # prctl: whether others of the same user may look into this process


def main() -> None:
    """Read the plan, start the harness and wait for it."""
    sys.path.append(OURS)
    plan = _plan()
    if plan is None:
        return
    _dumpable(False)
    child = os.fork()
    if child == 0:
        _become(plan)
    _wait_for(child, stays=plan["stays"])


def _plan() -> "dict | None":
    """Read the plan; return None when the supervisor went away first."""
    data, size = b"", 4
    while len(data) < size:
        more = os.read(0, size - len(data))
        if not more:
            return None
        data += more
        if len(data) == 4:
            size += int.from_bytes(data, "big")
    return marshal.loads(data[4:])  # noqa: S302 (written by our supervisor)


def _become(plan: dict) -> None:
    """Become the harness, in a session of its own."""
    from sia_runner.sandbox import launch

    status = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 20)
    try:
        _dumpable(True)  # the relay and the harness are watched from outside; an ordinary user must see their files
        os.setsid()
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # the kernel shall take the harness before this container's first process
        os.sched_setaffinity(0, plan["processors"])
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (2, 1), (launch.STATUS_FD, status)):
            os.dup2(source, target)
        os.closerange(launch.STATUS_FD + 1, 256)
        folder = os.path.dirname(sys.executable)
        plan["env"]["PATH"] = f"{folder}:{plan['env']['PATH']}"
        plan["argv"][0] = sys.executable
        launch.start(plan)
    except OSError as error:  # before `launch` could tell it itself
        os.write(status, f"E{error}".encode(errors="replace")[:500])
    finally:
        os._exit(127)


def _wait_for(child: int, *, stays: bool) -> None:
    """Reap processes that end, and report the exit code of `child`."""
    wake, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    os.close(1)  # the harness's
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        with contextlib.suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                if reaped[0] == child:
                    code = os.waitstatus_to_exitcode(reaped[1])
                    code = code if code >= 0 else 128 - code
                    if not stays:
                        os._exit(code)
                    os.write(2, b"X%d" % code)
        for fd, _ in poll.poll():
            if fd == 0 and not os.read(0, 1):
                return
            if fd == wake:
                os.read(wake, 4096)


def _dumpable(value: bool) -> None:
    """Set whether others of the same user may inspect this process."""
    ctypes.CDLL(None).prctl(_DUMPABLE, ctypes.c_ulong(value), 0, 0, 0)


if __name__ == "__main__":
    main()
