"""A sandboxed program in a container, for the supervisor's watchdog; `child.Child` is the one for a process.

The container's processes are no children of ours, but they are processes of this machine: they are looked up in /proc
below the container's first one (`inside`), and its cgroup is read like one of our own. That first process ends when we
do, because its standard input does.
"""

import marshal
import os
import time

from sia_runner.sandbox import cgroups, child, tree
from sia_runner.sandbox.engine import Engine, Stream

TYPE_CHECKING = False  # as the type checkers understand it; `typing` is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator

_KILLED = 137  # as a shell says SIGKILL
_FORMAT = 2  # of marshal: every Python reads it
_AT_ONCE = 0.5  # seconds in which a container ends by itself once its input has ended
_PATIENCE = 10.0


def start(plan: dict) -> "Container":
    """Create, attach and start a container, and send it the plan.

    `plan["container"]`: `socket` and `version` of the engine, `request` that creates the container (JSON), `enforced`:
    whether the engine was seen to hold limits. Raises OSError where the engine refuses.
    """
    how, launch = plan["container"], plan["launch"]
    if plan["shared_uid"]:
        launch["rlimits"]["RLIMIT_NPROC"] += tree.threads_of(os.getuid())  # it counts every thread of a user
    allowed, locks = child.processors(plan["limits"]["cpus"])
    engine = Engine(how["socket"], how["version"])
    name = engine.create(how["request"])
    try:
        stream = engine.attach(name)
        pid = engine.start(name)
        # the engine has changed the user already
        body = marshal.dumps({**launch, "uid": None, "processors": sorted(allowed), "stays": True}, _FORMAT)
        stream.send(len(body).to_bytes(4, "big") + body)
    except BaseException:
        engine.remove(name)
        raise
    return Container(engine, name, stream, pid, cgroups.of(pid) if how["enforced"] else None, locks)


class Past:
    """The last figures of a cgroup, whose folder disappears with its last process."""

    def __init__(self, group: cgroups.Group) -> None:
        self._oom_kills, self._peak, self.cpu_seconds = group.oom_kills(), group.peak_bytes(), group.cpu_seconds()

    def oom_kills(self) -> int:
        """Count the processes that the kernel killed for memory."""
        return self._oom_kills

    def peak_bytes(self) -> int:
        """Return the highest memory use."""
        return self._peak


class Container:
    """One sandboxed program in a container.

    `group`: its cgroup, where the engine was seen to hold its limits; None: they are sampled.
    """

    def __init__(
        self, engine: Engine, name: str, stream: Stream, pid: int, group: "cgroups.Group | None", locks: "list[int]"
    ) -> None:
        self.output = stream.fileno()
        self.group: cgroups.Group | Past | None = group
        self.code: int | None = None
        self._measured = cgroups.of(pid)
        self._usage = (0.0, 0)
        self._engine = engine
        self._name = name
        self._stream = stream
        self._pid = pid
        self._processor_locks = locks
        self._tree = tree.Tree(pid)
        self._silent = False
        stream.set_timeout(0)

    def read(self) -> "bytes | None":
        """Read some output; return None when there is none now, empty bytes at its end."""
        data = self._stream.read()
        self._silent |= data == b""
        return data

    def has_ended(self) -> bool:
        """Tell whether the container has ended.

        Its first process reports its exit code; a stream that ends without a report means that it was killed.
        """
        _, mark, code = self._stream.status.rpartition(b"X")
        if mark and code.isdigit():
            self.code = int(code)
        elif self._silent:
            self.code = _KILLED
        return self.code is not None

    def processes(self) -> "list[tree.Process]":
        """List its processes, once the harness was started; before that they are the engine's."""
        return self._tree.look() if self._stream.status else []

    def end(self) -> bool:
        """Kill the container; return False where it does not end."""
        if self._measured:
            final = Past(self._measured)
            self._usage = final.cpu_seconds, final.peak_bytes()
            self.group = final if self.group else None
        self._stream.finish()
        if self.code is None or not self._ends_within(_AT_ONCE):
            self._engine.kill(self._name)
        return self._ends_within(_PATIENCE)

    def _ends_within(self, seconds: float) -> bool:
        """Wait until the first process has ended or is a zombie.

        It is a zombie only when all others of its container have ended.
        """
        end = time.monotonic() + seconds
        while (state := _state(self._pid)) not in ("", "Z"):
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        return state in ("", "Z")

    def remaining_output(self) -> "Iterator[bytes]":
        """Yield the output that is still unread, once the container was ended."""
        self._stream.set_timeout(_PATIENCE)
        end = time.monotonic() + _PATIENCE
        while not self._silent and time.monotonic() < end:  # a portion may hold nothing of the harness's
            data = self.read()
            if data:
                yield data
                end = time.monotonic() + _PATIENCE

    def start_status(self) -> bytes:
        """Return its status: ``S`` when the harness was started, else ``E`` and the reason."""
        return self._stream.status.rpartition(b"X")[0] or self._stream.status

    def usage(self) -> "tuple[float, int]":
        """Return processor seconds and the peak of memory in bytes."""
        return self._usage

    def remove(self) -> None:
        """Close our end of the streams; the engine itself removes a container that has ended."""
        self._stream.close()


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return ""
