"""The sandboxed child process, and the process tree below the supervisor.

The child is bubblewrap or apptainer, or the harness itself confined in place. The supervisor is a subreaper: a
process that forks away or calls setsid still ends up below it.
"""

import contextlib
import fcntl
import marshal
import os
import resource
import signal
import time

from sia_runner.sandbox import cgroups, landlock, launch

TYPE_CHECKING = False  # typing would cost milliseconds at every start


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sia_runner.sandbox.relay import RelayHandle

_PAGE = os.sysconf("SC_PAGE_SIZE")
_FORGET = 1.0  # seconds until foreign process ids are looked at again: the kernel reuses them


class ProcessStats:
    """One process and its figures, as /proc shows them."""

    __slots__ = ("parent", "pid", "rss_bytes", "threads")

    def __init__(self, pid: int, parent: int, threads: int, rss_bytes: int) -> None:
        self.pid = pid
        self.parent = parent
        self.threads = threads
        self.rss_bytes = rss_bytes


class ProcessTree:
    """The descendants of `root`; 0: of this process.

    It remembers which processes are foreign, so that a look costs one directory read.
    """

    def __init__(self, root: int = 0) -> None:
        self._root = root or os.getpid()
        self._foreign: set[int] = set()
        self._forgotten = 0.0

    def look(self) -> list[ProcessStats]:
        """List all descendants."""
        time_now = time.monotonic()
        if time_now - self._forgotten > _FORGET:
            self._foreign.clear()
            self._forgotten = time_now
        present = {int(name) for name in os.listdir("/proc") if name.isdecimal()}
        self._foreign &= present
        processes = {}
        for pid in present - self._foreign:
            process = _stat(pid)
            if process:
                processes[pid] = process
        ours = _below(self._root, processes)
        self._foreign |= processes.keys() - {process.pid for process in ours}
        return ours


def _below(root: int, processes: dict[int, ProcessStats]) -> list[ProcessStats]:
    children: dict[int, list[ProcessStats]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    descendants: list[ProcessStats] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        descendants += below
        waiting += [process.pid for process in below]
    return descendants


def _stat(pid: int) -> ProcessStats | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before ) may hold anything
    except OSError:
        return None
    return ProcessStats(pid, int(fields[1]), int(fields[17]), int(fields[21]) * _PAGE)


def count_threads(user: int) -> int:
    """Count the threads of a user on this machine."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdecimal():
            process = _stat(int(name))
            try:
                count += process.threads if process and os.stat(f"/proc/{name}").st_uid == user else 0
            except FileNotFoundError:
                continue
    return count


def proportional_bytes(processes: list[ProcessStats]) -> int:
    """Sum memory with shared pages counted once (PSS); resident size where a process cannot be inspected."""
    return sum(_pss(process) for process in processes)


def _pss(process: ProcessStats) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except PermissionError:
        return process.rss_bytes
    except OSError:
        pass
    return 0  # it has ended meanwhile


def end_all(patience: float = 10.0) -> bool:
    """Kill and reap every descendant; return False where some are left after `patience` seconds.

    Those are stuck in the kernel. Stopping all before killing any leaves a fork bomb no process that could fork in the
    meantime.
    """
    end = time.monotonic() + patience
    while time.monotonic() < end:
        stopped: set[int] = set()
        while fresh := {process.pid for process in ProcessTree().look()} - stopped:
            _signal(fresh, signal.SIGSTOP)
            stopped |= fresh
        _signal(stopped, signal.SIGKILL)
        if _reap_all():
            return True
        time.sleep(0.001 if not stopped else 0.003)
    return False


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def _reap_all() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


_SPARE = 3  # bubblewrap's own processes in the same cgroup
_BACKSTOP = 1 << 30  # address space beyond the memory limit: interpreters and thread stacks reserve, not use


class Child:
    """One sandboxed program as a child of the supervisor.

    `output` and `status` are the reading ends of pipes; `group` is its cgroup, where one could be made.
    `container.Container` has the same methods.
    """

    def __init__(self, pid: int, output: int, status: int, group: "cgroups.Cgroup | None", locks: "list[int]") -> None:
        self.output = output
        self.group = group
        self.code: int | None = None  # how it ended, as a shell says it: 128 + signal
        self._pid = pid
        self._status = status
        self._processor_locks = locks  # descriptors, open until the end
        self._tree = ProcessTree()
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

    def processes(self) -> "list[ProcessStats]":
        """List its processes."""
        return self._tree.look()

    def end(self) -> bool:
        """Kill all its processes; return False where some are stuck in the kernel."""
        return end_all()

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


def start_child(plan: dict) -> Child:
    """Fork the sandboxed program, with its limits, pipes and processors."""
    limits = plan["limits"]
    spare = plan["relays"] + (_SPARE if plan["bubblewrap"] or plan["apptainer"] else 0)
    group = cgroups.create_cgroup(limits["memory"], limits["processes"] + spare)
    rlimits = plan["launch"]["rlimits"]
    if group is None:
        rlimits["RLIMIT_AS"] = limits["memory"] + _BACKSTOP
    if plan["shared_uid"]:
        rlimits["RLIMIT_NPROC"] += count_threads(os.getuid())  # it counts every thread of a user
    allowed, locks = claim_processors(limits["cpus"])
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
    plan: dict, group: "cgroups.Cgroup | None", output: int, status: int, plan_pipe: "tuple[int, int] | None"
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
        launch.set_rlimits({"RLIMIT_CORE": 0})
        os.execve(plan["bubblewrap"][0], plan["bubblewrap"], {})
    if plan["apptainer"]:
        os.execve(plan["apptainer"][0], plan["apptainer"], {"PATH": os.defpath, "HOME": "/"})
    door = _start_relay(plan["launch"]) if plan["launch"]["door"] else None
    ruleset = landlock.make_ruleset(**plan["landlock"], ports=_allowed_ports(plan["launch"], door))
    asks = door is not None and plan["launch"]["door"]["way"] == "loopback"
    launch.become(plan["launch"], lambda: landlock.apply_ruleset(ruleset), door.ask if door and asks else None)


def _start_relay(plan: dict) -> "RelayHandle":
    from sia_runner.sandbox import network, relay

    if plan["door"]["way"] == "namespace":
        network.isolate()
    return relay.start_relay(plan, lambda: launch.become_relay(plan, landlock.seal))


def _allowed_ports(plan: dict, door: "RelayHandle | None") -> "list[int] | None":
    if door is None:
        return []
    return None if plan["door"]["way"] == "namespace" else [door.port]


def claim_processors(count: int) -> "tuple[set[int], list[int]]":
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
