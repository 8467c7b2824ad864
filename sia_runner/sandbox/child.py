"""The sandboxed child process: bubblewrap or apptainer, or the harness itself confined in place."""

import contextlib
import fcntl
import marshal
import os
import resource
import signal

from sia_runner.sandbox import cgroups, landlock, launch, tree

TYPE_CHECKING = False  # as the type checkers understand it; `typing` is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sia_runner.sandbox.door import Door

_SPARE = 3  # bubblewrap's own processes in the same cgroup
_BACKSTOP = 1 << 30  # address space beyond the memory limit: interpreters and thread stacks reserve, not use


class Child:
    """One sandboxed program as a child of the supervisor.

    `output` and `status` are the reading ends of pipes; `group` is its cgroup, where one could be made.
    `container.Container` has the same methods.
    """

    def __init__(self, pid: int, output: int, status: int, group: "cgroups.Group | None", locks: "list[int]") -> None:
        self.output = output
        self.group = group
        self.code: int | None = None  # how it ended, as a shell says it: 128 + signal
        self._pid = pid
        self._status = status
        self._processor_locks = locks  # descriptors, open until the end
        self._tree = tree.Tree()
        os.set_blocking(output, False)

    def read(self) -> "bytes | None":
        """Read some output; return None when there is none now, empty bytes at its end."""
        try:
            return os.read(self.output, 1 << 18)
        except BlockingIOError:
            return None

    def has_ended(self) -> bool:
        """Reap processes that ended; tell whether the program itself has ended."""
        with contextlib.suppress(ChildProcessError):
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                if reaped[0] == self._pid:
                    code = os.waitstatus_to_exitcode(reaped[1])
                    self.code = code if code >= 0 else 128 - code
        return self.code is not None

    def processes(self) -> "list[tree.Process]":
        """List its processes."""
        return self._tree.look()

    def end(self) -> bool:
        """Kill all its processes; return False where some are stuck in the kernel."""
        return tree.end_all()

    def remaining_output(self) -> "Iterator[bytes]":
        """Yield the output that is still unread, once the program was ended."""
        while data := self.read():
            yield data

    def start_status(self) -> bytes:
        """Read the status pipe: ``S`` when the harness was started, else ``E`` and the reason."""
        return os.read(self._status, 600)

    def usage(self) -> "tuple[float, int]":
        """Return processor seconds and the peak of memory in bytes (0: not known)."""
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        peak = self.group.peak_bytes() if self.group else 0
        return usage.ru_utime + usage.ru_stime, peak or usage.ru_maxrss * 1024

    def remove(self) -> None:
        """Remove the cgroup."""
        if self.group:
            self.group.remove()


def start(plan: dict) -> Child:
    """Fork the sandboxed program, with its limits, pipes and processors."""
    limits = plan["limits"]
    spare = plan["relays"] + (_SPARE if plan["bubblewrap"] or plan["apptainer"] else 0)
    group = cgroups.create(limits["memory"], limits["processes"] + spare)
    rlimits = plan["launch"]["rlimits"]
    if group is None:
        rlimits["RLIMIT_AS"] = limits["memory"] + _BACKSTOP
    if plan["shared_uid"]:
        rlimits["RLIMIT_NPROC"] += tree.threads_of(os.getuid())  # it counts every thread of a user
    allowed, locks = processors(limits["cpus"])
    output, output_end = _pipe()
    plan_end = _pipe_with(plan["launch"], sorted(allowed)) if plan["apptainer"] else None
    status, status_end = _pipe()
    with contextlib.suppress(OSError):  # a user may own so much pipe space and no more
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, 1 << 20)
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)  # its descriptor number is reused below
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.sched_setaffinity(0, allowed)
            _become(plan, group, output_end, status_end, plan_end)
        except BaseException as error:  # noqa: BLE001 (told to the parent, whatever it is)
            os.write(status_end, f"E{error}".encode(errors="replace")[:500])
        finally:
            os._exit(127)
    os.close(output_end)
    os.close(status_end)
    return Child(pid, output, status, group, locks)


def _become(
    plan: dict, group: "cgroups.Group | None", output: int, status: int, plan_pipe: "tuple[int, int] | None"
) -> None:
    os.setsid()
    if group:
        group.join()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # should the machine run short, the kernel takes the harness, not the runner
    descriptors = {0: os.open(os.devnull, os.O_RDONLY), 1: output, 2: output, launch.STATUS_FD: status}
    if plan["bubblewrap"]:
        descriptors[launch.PLAN_FD] = _memory_file(marshal.dumps(plan["launch"]))
        descriptors[launch.ARGS_FD] = _memory_file(plan["arguments"])
    if plan_pipe:  # see `inside`
        descriptors = {0: plan_pipe[0], 1: output, 2: status}
    # out of the way first: a source may sit on a target's number
    spare = {target: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 20) for target, source in descriptors.items()}
    for target, source in spare.items():
        os.dup2(source, target)
    if plan["bubblewrap"]:
        launch.restrict({"RLIMIT_CORE": 0})
        os.execve(plan["bubblewrap"][0], plan["bubblewrap"], {})
    if plan["apptainer"]:
        os.execve(plan["apptainer"][0], plan["apptainer"], {"PATH": os.defpath, "HOME": "/"})
    door = _open_door(plan["launch"]) if plan["launch"]["door"] else None
    ruleset = landlock.prepare(**plan["landlock"], ports=_ports(plan["launch"], door))
    asks = door is not None and plan["launch"]["door"]["way"] == "loopback"
    launch.become(plan["launch"], lambda: landlock.restrict(ruleset), door.ask if door and asks else None)


def _open_door(plan: dict) -> "Door":
    from sia_runner.sandbox import door, network

    if plan["door"]["way"] == "namespace":
        network.isolate()
    return door.open_door(plan, lambda: launch.become_relay(plan, landlock.seal))


def _ports(plan: dict, door: "Door | None") -> "list[int] | None":
    if door is None:
        return []
    return None if plan["door"]["way"] == "namespace" else [door.port]


def processors(count: int) -> "tuple[set[int], list[int]]":
    """Choose the processors to run on, and lock them against other sandboxes of this machine where possible.

    Each lock is on the processor's own folder in /sys: no file is made, and it ends with its holder.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if count >= len(allowed):
        return set(allowed), []
    start = os.getpid() % len(allowed)  # sandboxes that find every lock taken rarely choose the same processors
    allowed = allowed[start:] + allowed[:start]
    chosen: dict[int, int] = {}
    for processor in allowed:
        lock = _try_lock(f"/sys/devices/system/cpu/cpu{processor}")
        if lock >= 0:
            chosen[processor] = lock
        if len(chosen) == count:
            break
    rest = [processor for processor in allowed if processor not in chosen]
    return set(chosen) | set(rest[: count - len(chosen)]), list(chosen.values())


def _try_lock(folder: str) -> int:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return -1
    return lock


def _pipe() -> "tuple[int, int]":
    return os.pipe2(os.O_CLOEXEC)


def _pipe_with(launch: dict, allowed: "list[int]") -> "tuple[int, int]":
    """Return both ends of a pipe that holds the plan for `inside`.

    It ends with this process, which keeps the writing end open.
    """
    reader, writer = _pipe()
    body = marshal.dumps({**launch, "uid": None, "processors": allowed, "stays": False}, 2)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 17)
    os.write(writer, len(body).to_bytes(4, "big") + body)
    return reader, writer


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("sia")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
