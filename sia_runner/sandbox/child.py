"""The sandboxed child process, and the process tree below the supervisor.

The child is bubblewrap or apptainer, or the harness itself confined in place. The supervisor is a subreaper: a
process that forks away or calls setsid still ends up below it.
"""

import contextlib
import fcntl
import os
import resource
import signal
import time
from collections import namedtuple
from collections.abc import Iterator

from sia_runner.sandbox import cgroups, landlock, launch

_PAGE = os.sysconf("SC_PAGE_SIZE")
_FORGET = 1.0  # seconds until foreign process ids are looked at again: the kernel reuses them
ProcessStats = namedtuple("ProcessStats", "pid parent threads rss_bytes state")  # one process, as /proc shows it
_SPARE = 3  # bubblewrap's own processes in the same cgroup
_BACKSTOP = 1 << 30  # address space beyond the memory limit: interpreters and thread stacks reserve, not use


class ProcessTree:
    """The descendants of `root`, 0: of this process; foreign ones are remembered: a look costs one folder read."""

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
        children: dict[int, list[ProcessStats]] = {}
        looked_at = set()
        for process in filter(None, map(process_stats, present - self._foreign)):
            looked_at.add(process.pid)
            children.setdefault(process.parent, []).append(process)
        ours: list[ProcessStats] = []
        waiting = [self._root]
        while waiting:
            below = children.get(waiting.pop(), [])
            ours += below
            waiting += [process.pid for process in below]
        self._foreign |= looked_at - {process.pid for process in ours}
        return ours


def process_stats(pid: int) -> ProcessStats | None:
    """Return the figures of a process; None where it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before ) may hold anything
    except OSError:
        return None
    return ProcessStats(pid, int(fields[1]), int(fields[17]), int(fields[21]) * _PAGE, fields[0])


def count_threads(user: int) -> int:
    """Count the threads of a user on this machine."""
    count = 0
    for name in filter(str.isdecimal, os.listdir("/proc")):
        process = process_stats(int(name))
        with contextlib.suppress(FileNotFoundError):
            count += process.threads if process and os.stat(f"/proc/{name}").st_uid == user else 0
    return count


def proportional_bytes(process: ProcessStats) -> int:
    """Return memory with shared pages counted in part (PSS); resident size where a process cannot be inspected."""
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


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


class Child:
    """One sandboxed program as a child of the supervisor. `container.Container` has the same attributes and methods."""

    def __init__(self, plan: dict) -> None:
        limits = plan["limits"]
        spare = plan["relays"] + (_SPARE if plan["bubblewrap"] or plan["apptainer"] else 0)
        self.group = cgroups.create_cgroup(limits["memory"], limits["processes"] + spare)
        rlimits = plan["launch"]["rlimits"]
        if self.group is None:
            rlimits["RLIMIT_AS"] = limits["memory"] + _BACKSTOP
        if plan["shared_uid"]:
            rlimits["RLIMIT_NPROC"] += count_threads(os.getuid())  # it counts every thread of a user
        allowed, self._processor_locks = claim_processors(limits["cpus"])
        self.code: int | None = None  # how it ended, as a shell says it: 128 + signal
        self._tree = ProcessTree()
        self.output, output_end = os.pipe2(os.O_CLOEXEC)
        self._status, status_end = os.pipe2(os.O_CLOEXEC)
        plan_end = -1
        if plan["apptainer"]:  # see `inside`; the pipe ends with this process, which keeps the writing end open
            plan_end, writer = os.pipe2(os.O_CLOEXEC)
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 17)
            message = {**plan["launch"], "uid": None, "processors": sorted(allowed), "stays": False}
            os.write(writer, launch.pack(message))
        os.set_blocking(self.output, False)
        with contextlib.suppress(OSError):  # a user may own so much pipe space and no more
            fcntl.fcntl(self.output, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                signal.set_wakeup_fd(-1)  # its descriptor number is reused below
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                    signal.signal(number, signal.SIG_DFL)
                os.sched_setaffinity(0, allowed)
                _become(plan, self.group, output_end, status_end, plan_end)
            except BaseException as error:  # noqa: BLE001 (told to the parent, whatever it is)
                launch.report_failure(error, status_end)
            finally:
                os._exit(127)
        os.close(output_end)
        os.close(status_end)

    def read(self) -> "bytes | None":
        """Read some output; return None when there is none now, empty bytes at its end."""
        try:
            return os.read(self.output, 1 << 18)
        except BlockingIOError:
            return None

    def has_ended(self) -> bool:
        """Reap processes that ended; tell whether the program itself has ended."""
        code = launch.reap(self._pid)
        if code is not None:
            self.code = code
        return self.code is not None

    def processes(self) -> "list[ProcessStats]":
        """List its processes."""
        return self._tree.look()

    def memory_killer(self) -> str:
        """Return what ran out if the kernel killed one of its processes for memory, where a cgroup holds the limit."""
        return self.group.memory_killer() if self.group else ""

    def end(self, patience: float = 10.0) -> bool:
        """Kill and reap all its processes; return False where some are stuck in the kernel after `patience` seconds."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            stopped: set[int] = set()  # all before any is killed: a fork bomb has no process that could fork meanwhile
            while fresh := {process.pid for process in ProcessTree().look()} - stopped:
                _signal(fresh, signal.SIGSTOP)
                stopped |= fresh
            _signal(stopped, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return True
            time.sleep(0.001 if not stopped else 0.003)
        return False

    def remaining_output(self) -> Iterator[bytes]:
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


def _become(plan: dict, group: "cgroups.Cgroup | None", output: int, status: int, plan_end: int) -> None:
    os.setsid()
    if group:
        group.join()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # should the machine run short, the kernel takes the harness, not the runner
    descriptors = {0: os.open(os.devnull, os.O_RDONLY), 1: output, 2: output, launch.STATUS_FD: status}
    if plan["bubblewrap"]:
        descriptors[launch.PLAN_FD] = _memory_file(launch.pack(plan["launch"]))
        descriptors[launch.ARGS_FD] = _memory_file(plan["arguments"])
    if plan["apptainer"]:  # see `inside`
        descriptors = {0: plan_end, 1: output, 2: status}
    # out of the way first: a source may sit on a target's number
    spare = {target: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 20) for target, source in descriptors.items()}
    for target, source in spare.items():
        os.dup2(source, target)
    if plan["bubblewrap"]:
        launch.set_rlimits({"RLIMIT_CORE": 0})
        os.execve(plan["bubblewrap"][0], plan["bubblewrap"], {})
    if plan["apptainer"]:
        os.execve(plan["apptainer"][0], plan["apptainer"], {"PATH": os.defpath, "HOME": "/"})
    ports: list[int] | None = []
    ask = None
    if plan["launch"]["gateway"]:
        from sia_runner.sandbox import network, relay

        own_network = plan["launch"]["gateway"]["way"] == "namespace"
        if own_network:
            network.isolate()
        port, ask = relay.start_relay(plan["launch"], lambda: launch.become_relay(plan["launch"], landlock.seal))
        ports, ask = (None, None) if own_network else ([port], ask)
    ruleset = landlock.make_ruleset(**plan["landlock"], ports=ports)
    launch.become(plan["launch"], lambda: landlock.apply_ruleset(ruleset), ask)


def claim_processors(count: int) -> "tuple[set[int], list[int]]":
    """Choose the processors to run on; where possible, lock their folders in /sys against other sandboxes."""
    allowed = sorted(os.sched_getaffinity(0))
    if count >= len(allowed):
        return set(allowed), []
    start = os.getpid() % len(allowed)  # sandboxes that find every lock taken rarely choose the same processors
    allowed = allowed[start:] + allowed[:start]
    locks: dict[int, int] = {}
    for processor in allowed:
        with contextlib.suppress(OSError):
            lock = os.open(f"/sys/devices/system/cpu/cpu{processor}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locks[processor] = lock
            except OSError:  # another sandbox has it
                os.close(lock)
        if len(locks) == count:
            break
    rest = [processor for processor in allowed if processor not in locks]
    return set(locks) | set(rest[: count - len(locks)]), list(locks.values())


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("sia")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
