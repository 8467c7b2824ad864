"""The first process in a container: start the harness, and end when the harness's supervisor does.

Standard input brings the plan (marshalled, after its length in 4 bytes) and stays open: it ends when the supervisor
does, however that dies, and with the first process every other one of the container ends. Standard output is the
harness's. Standard error is ours: the status that `launch` reports, and at the end ``X`` and the exit code.

The plan is that of `launch` with `processors` (the ones to run on) and `stays`: whether to wait after the harness's end
until standard input ends, so that its usage can still be read. Only `launch` and `relay` are mounted beside it.
"""

import contextlib
import fcntl
import os
import select
import signal
import sys

sys.path.append(__file__.partition("/sia_runner/")[0])  # where the modules are mounted, as the package they are part of
from sia_runner.sandbox import launch

_DUMPABLE = 4  # prctl: whether others of the same user may look into this process


def main() -> None:
    """Read the plan, start the harness and wait for it."""
    plan = launch.receive(0)
    if plan is None:
        return
    launch.prctl(_DUMPABLE, 0)
    child = os.fork()
    if child == 0:
        _become(plan)
    _wait_for(child, stays=plan["stays"])


def _become(plan: dict) -> None:
    status = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 20)
    try:
        launch.prctl(_DUMPABLE, 1)  # relay and harness are watched from outside; an ordinary user must see their files
        os.setsid()
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # the kernel shall take the harness before this container's first process
        os.sched_setaffinity(0, plan["processors"])
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (2, 1), (launch.STATUS_FD, status)):
            os.dup2(source, target)
        os.closerange(launch.STATUS_FD + 1, 256)
        folder = os.path.dirname(sys.executable)
        plan["env"]["PATH"] = f"{folder}:{plan['env']['PATH']}"
        plan["argv"][0] = sys.executable  # the only one that is known to be here
        launch.start(plan)
    except OSError as error:  # before `launch` could tell it itself
        launch.report_failure(error, status)
    finally:
        os._exit(127)


def _wait_for(child: int, *, stays: bool) -> None:
    wake, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    os.close(1)  # the harness's
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        code = launch.reap(child)
        if code is not None and not stays:
            os._exit(code)
        if code is not None:
            os.write(2, b"X%d" % code)
        for fd, _ in poll.poll():
            if fd == 0 and not os.read(0, 1):
                return
            if fd == wake:
                os.read(wake, 4096)


if __name__ == "__main__":
    main()
