"""The processes below the supervisor: list them, measure them, and end them all.

The supervisor is a subreaper: a process that forks away or calls setsid still ends up below it.
"""

import os
import signal
import time

_PAGE = os.sysconf("SC_PAGE_SIZE")
_FORGET = 1.0  # seconds until foreign process ids are looked at again: the kernel reuses them


class Process:
    """One process and its figures, as /proc shows them."""

    __slots__ = ("parent", "pid", "rss_bytes", "threads")

    def __init__(self, pid: int, parent: int, threads: int, rss_bytes: int) -> None:
        self.pid = pid
        self.parent = parent
        self.threads = threads
        self.rss_bytes = rss_bytes


class Tree:
    """The descendants of `root`; 0: of this process.

    It remembers which processes are foreign, so that a look costs one directory read.
    """

    def __init__(self, root: int = 0) -> None:
        self._root = root or os.getpid()
        self._foreign: set[int] = set()
        self._forgotten = 0.0

    def look(self) -> list[Process]:
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


def _below(root: int, processes: dict[int, Process]) -> list[Process]:
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    descendants: list[Process] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        descendants += below
        waiting += [process.pid for process in below]
    return descendants


def _stat(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before ) may hold anything
    except OSError:
        return None
    return Process(pid, int(fields[1]), int(fields[17]), int(fields[21]) * _PAGE)


def threads_of(user: int) -> int:
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


def proportional_bytes(processes: list[Process]) -> int:
    """Sum memory with shared pages counted once (PSS); resident size where a process cannot be inspected."""
    return sum(_pss(process) for process in processes)


def _pss(process: Process) -> int:
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
        while fresh := {process.pid for process in Tree().look()} - stopped:
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
