"""The process that stands over one vLLM server, and ends it, with all that it started, when its own starter ends.

    python vllm_guard.py COMMAND …

Standard input is a pipe of the starter: its end means stop, and it also ends with a starter that is killed. Started by
its path, so that nothing of the package is loaded; standard library only.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

TERM_SECONDS = 3.0  # between SIGTERM, after which vLLM ends its own processes, and SIGKILL
_TICK = 0.1  # seconds between two looks at the server
_PDEATHSIG, _SUBREAPER = 1, 36  # of prctl


def main(command: list[str]) -> int:
    """Run the server to its end, or to ours; return its exit code."""
    libc, starter = ctypes.CDLL(None), os.getppid()
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)  # orphans below become our children, wherever they forked to

    def end_with_guard() -> None:
        libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: stopped.append(received))
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=end_with_guard)  # noqa: PLW1509 - one thread
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    # The parent's id is looked at too: another child of the starter may have inherited its end of the pipe.
    while server.poll() is None and not stopped and os.getppid() == starter:
        if select.select([0], [], [], _TICK)[0]:
            break
    server.terminate()
    _end_children(time.monotonic() + TERM_SECONDS, server)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def _end_children(deadline: float, server: "subprocess.Popen[bytes]") -> None:
    """Wait until no child is left, at most to the deadline; then kill those that are, and those that become ours."""
    while children := _children():
        for child in children:
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            if child == server.pid:
                server.poll()
            else:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child, os.WNOHANG)
        if server.poll() is not None:  # what outlives it has nothing more to do
            deadline = 0.0
        time.sleep(_TICK / 5)


def _children() -> list[int]:
    """Return the processes whose parent we are, dead ones that nobody waited for included."""
    own, children = os.getpid(), []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state parent …: a name may contain parentheses and spaces
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == own:
                children.append(int(stat.parent.name))
    return children


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
