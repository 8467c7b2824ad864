"""Exact memory and process limits where a cgroup may be made here: v2 where delegated, v1 as root."""

import os
import time

ROOT = "/sys/fs/cgroup"
_PREFIX = "sia-"
_PORTION = 1 << 20  # bytes: more than the kernel takes for a group at a time


class Cgroup:
    """One cgroup with limits: `memory`, `pids` and `cpu` are one folder in v2, of several hierarchies in v1."""

    def __init__(self, memory: str, pids: str, version: int, cpu: str = "") -> None:
        self.memory, self.pids, self.version, self._cpu = memory, pids, version, cpu or memory

    def join(self) -> None:
        """Move the calling process in."""
        for folder in {self.memory, self.pids}:
            _write(f"{folder}/cgroup.procs", 0)

    def oom_kills(self) -> int:
        """Count its processes that the kernel killed for memory: at its own limit, or because the machine had none."""
        events = "memory.events" if self.version == 2 else "memory.oom_control"
        return read_count(f"{self.memory}/{events}", "oom_kill")

    def memory_killer(self) -> str:
        """Return what ran out when the kernel killed one of its processes: `limit` or `machine`; else an empty text."""
        if not self.oom_kills():
            return ""
        if self.version == 2:
            at_limit = read_count(f"{self.memory}/memory.events", "oom") > 0
        else:  # newer kernels no longer count what the limit refused
            at_limit = self.peak_bytes() > int(_read(f"{self.memory}/memory.limit_in_bytes") or 0) - _PORTION
        return "limit" if at_limit else "machine"

    def peak_bytes(self) -> int:
        """Return the highest memory use so far; 0 where the kernel does not tell (v2 before Linux 5.19)."""
        peak = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        return int(_read(f"{self.memory}/{peak}") or 0)

    def cpu_seconds(self) -> float:
        """Return the processor time of all its processes so far; 0 where the kernel does not count."""
        if self.version == 1:
            return int(_read(f"{self._cpu}/cpuacct.usage") or 0) / 1e9
        return read_count(f"{self._cpu}/cpu.stat", "usage_usec") / 1e6

    def remove(self) -> None:
        """Remove the cgroup, once every process in it has ended; the kernel may take a moment to notice that."""
        for folder in {self.memory, self.pids}:
            for _ in range(50):
                if _removed(folder):
                    break
                time.sleep(0.01)


def create_cgroup(memory_bytes: int, processes: int, root: str = ROOT) -> Cgroup | None:
    """Make a cgroup with these limits, named after this process; return None where that is not possible."""
    create = _create_v2 if os.path.exists(f"{root}/cgroup.controllers") else _create_v1
    return create(memory_bytes, processes, root)


def cgroup_of(pid: int, root: str = ROOT) -> Cgroup | None:
    """Return the cgroup that another program made for a process; None where it cannot be seen."""
    paths = _paths(pid)
    version = 2 if os.path.exists(f"{root}/cgroup.controllers") else 1
    memory, pids, cpu = (f"{root}/{name}{paths.get(name, '')}" for name in ("memory", "pids", "cpuacct"))
    if version == 2:
        memory = pids = cpu = f"{root}{paths.get('', '')}"
    visible = paths and all(os.path.exists(f"{folder}/cgroup.procs") for folder in (memory, pids))
    return Cgroup(memory, pids, version, cpu) if visible else None


def can_create() -> bool:
    """Tell whether a cgroup can be made here, by making one: permissions alone do not tell."""
    group = create_cgroup(64 << 20, 16)
    if group:
        group.remove()
    return group is not None


def _create_v2(memory_bytes: int, processes: int, root: str) -> Cgroup | None:
    path = _paths().get("")
    limits = {"memory.max": memory_bytes, "pids.max": processes, "memory.oom.group": 1}
    # A cgroup that holds processes cannot limit its children, so an ancestor is often the one that may have them.
    while path:
        parent = f"{root}/{path.strip('/')}".rstrip("/")
        controllers = _read(f"{parent}/cgroup.subtree_control").split()
        if {"memory", "pids"} <= set(controllers) and os.access(f"{parent}/cgroup.procs", os.W_OK):
            folder = _make(parent, limits, {"memory.swap.max": 0})
            if folder:
                return Cgroup(folder, folder, 2)
        path = os.path.dirname(path) if path != "/" else None
    return None


def _create_v1(memory_bytes: int, processes: int, root: str) -> Cgroup | None:
    own = _paths()
    if "memory" not in own or "pids" not in own:
        return None
    swap = {"memory.memsw.limit_in_bytes": memory_bytes}
    memory = _make(f"{root}/memory{own['memory']}", {"memory.limit_in_bytes": memory_bytes}, swap)
    pids = _make(f"{root}/pids{own['pids']}", {"pids.max": processes}, {}) if memory else None
    if memory and not pids:
        _removed(memory)
    return Cgroup(memory, pids, 1) if memory and pids else None


def _make(parent: str, limits: dict[str, int], optional: dict[str, int]) -> str | None:
    folder = f"{parent.rstrip('/')}/{_PREFIX}{os.getpid()}"
    try:
        for name in os.listdir(parent):  # those of supervisors that were killed
            if name.startswith(_PREFIX) and not os.path.exists(f"/proc/{name.removeprefix(_PREFIX)}"):
                _removed(f"{parent}/{name}")
        os.mkdir(folder)
        present = {name: value for name, value in optional.items() if os.path.exists(f"{folder}/{name}")}
        for name, value in (limits | present).items():
            _write(f"{folder}/{name}", value)
    except OSError:
        _removed(folder)
        return None
    return folder


def _paths(pid: int | str = "self") -> dict[str, str]:
    """Map each controller to the path of a process's cgroup; the v2 hierarchy has the empty name."""
    paths = {}
    for line in _read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def read_count(path: str, name: str) -> int:
    """Return the number beside `name` in a file of such lines; 0 where there is none."""
    return int(dict(line.split() for line in _read(path).splitlines()).get(name, 0))


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, value: int) -> None:
    with open(path, "w") as file:
        file.write(str(value))


def _removed(folder: str) -> bool:
    try:
        os.rmdir(folder)
    except OSError:
        return not os.path.exists(folder)
    return True
