"""One sandboxed program in a container, as `Watch` sees it: the counterpart of `child.Child`, which is a process.

The container's processes are no children of ours, but they are processes of this machine: they are looked at in /proc
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
    """Create, attach, start, and hand over the plan. Raises OSError where the engine refuses.

    `plan["container"]`: `socket` and `version` of the engine, `request` that creates the container (JSON), `enforced`:
    whether the engine was seen to hold limits.
    """
    how, launch = plan["container"], plan["launch"]
    if plan["shared_uid"]:
        launch["rlimits"]["RLIMIT_NPROC"] += tree.threads_of(os.getuid())  # it counts every thread of a user
    allowed, slots = child.processors(plan["limits"]["cpus"])
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
    return Container(engine, name, stream, pid, cgroups.of(pid) if how["enforced"] else None, slots)


class Past:
    """What a cgroup said last: its folder goes with its last process."""

    def __init__(self, group: cgroups.Group) -> None:
        self._oom_kills, self._peak, self.cpu_seconds = group.oom_kills(), group.peak_bytes(), group.cpu_seconds()

    def oom_kills(self) -> int:
        return self._oom_kills

    def peak_bytes(self) -> int:
        return self._peak


class Container:
    """`group`: its cgroup, where the engine was seen to hold its limits; None: they are sampled."""

    def __init__(
        self, engine: Engine, name: str, stream: Stream, pid: int, group: "cgroups.Group | None", slots: "list[int]"
    ) -> None:
        self.output = stream.fileno()
        self.group: cgroups.Group | Past | None = group
        self.code: int | None = None
        self._measured = cgroups.of(pid)
        self._used = (0.0, 0)
        self._engine = engine
        self._name = name
        self._stream = stream
        self._pid = pid
        self._slots = slots
        self._tree = tree.Tree(pid)
        self._silent = False
        stream.set_timeout(0)

    def read(self) -> "bytes | None":
        data = self._stream.read()
        self._silent |= data == b""
        return data

    def has_ended(self) -> bool:
        """It says so itself; one that falls silent without a word was killed."""
        _, mark, code = self._stream.said.rpartition(b"X")
        if mark and code.isdigit():
            self.code = int(code)
        elif self._silent:
            self.code = _KILLED
        return self.code is not None

    def processes(self) -> "list[tree.Process]":
        """None before it says that the harness was started: what is there then is the engine's, for root to read."""
        return self._tree.look() if self._stream.said else []

    def end(self) -> bool:
        if self._measured:
            past = Past(self._measured)
            self._used = past.cpu_seconds, past.peak_bytes()
            self.group = past if self.group else None
        self._stream.finish()
        if self.code is None or not self._gone_within(_AT_ONCE):
            self._engine.kill(self._name)
        return self._gone_within(_PATIENCE)

    def _gone_within(self, seconds: float) -> bool:
        """A first process is a zombie only when all others of its container have ended."""
        end = time.monotonic() + seconds
        while (state := _state(self._pid)) not in ("", "Z"):
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        return state in ("", "Z")

    def rest(self) -> "Iterator[bytes]":
        self._stream.set_timeout(_PATIENCE)
        end = time.monotonic() + _PATIENCE
        while not self._silent and time.monotonic() < end:  # a portion may hold nothing of the harness's
            data = self.read()
            if data:
                yield data
                end = time.monotonic() + _PATIENCE

    def said(self) -> bytes:
        return self._stream.said.rpartition(b"X")[0] or self._stream.said

    def used(self) -> "tuple[float, int]":
        return self._used

    def remove(self) -> None:
        """The engine removes a container that has ended; closing our end of its streams is all that is left to do."""
        self._stream.close()


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return ""
