"""Starts the sandboxed child: bubblewrap, or the harness itself confined in place."""

import contextlib
import fcntl
import marshal
import os
import signal

from sia_runner.sandbox import cgroups, landlock, launch, tree

TYPE_CHECKING = False  # as the type checkers understand it; `typing` is slow to import
if TYPE_CHECKING:
    from sia_runner.sandbox.door import Door

_SPARE = 3  # bubblewrap's own processes in the same cgroup
_BACKSTOP = 1 << 30  # address space beyond the memory limit: interpreters and thread stacks reserve, not use


class Child:
    """`output` and `status` are the reading ends of pipes; `group` its cgroup, where one could be made."""

    def __init__(self, pid: int, output: int, status: int, group: "cgroups.Group | None", slots: "list[int]") -> None:
        self.pid = pid
        self.output = output
        self.status = status
        self.group = group
        self.slots = slots  # locks on the processors it runs on, held until the end


def start(plan: dict) -> Child:
    limits = plan["limits"]
    spare = plan["relays"] + (_SPARE if plan["bubblewrap"] else 0)
    group = cgroups.create(limits["memory"], limits["processes"] + spare)
    rlimits = plan["launch"]["rlimits"]
    if group is None:
        rlimits["RLIMIT_AS"] = limits["memory"] + _BACKSTOP
    if plan["shared_uid"]:
        rlimits["RLIMIT_NPROC"] += tree.threads_of(os.getuid())  # it counts every thread of a user
    processors, slots = _processors(limits["cpus"])
    output, output_end = _pipe()
    status, status_end = _pipe()
    with contextlib.suppress(OSError):  # a user may own so much pipe space and no more
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, 1 << 20)
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)  # its number will mean something else
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.sched_setaffinity(0, processors)
            _become(plan, group, output_end, status_end)
        except BaseException as error:  # noqa: BLE001 (told to the parent, whatever it is)
            os.write(status_end, f"E{error}".encode(errors="replace")[:500])
        finally:
            os._exit(127)
    os.close(output_end)
    os.close(status_end)
    return Child(pid, output, status, group, slots)


def _become(plan: dict, group: "cgroups.Group | None", output: int, status: int) -> None:
    os.setsid()
    if group:
        group.join()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # should the machine run short, the kernel takes the harness, not the runner
    given = {0: os.open(os.devnull, os.O_RDONLY), 1: output, 2: output, launch.STATUS_FD: status}
    if plan["bubblewrap"]:
        given[launch.PLAN_FD] = _memory_file(marshal.dumps(plan["launch"]))
        given[launch.ARGS_FD] = _memory_file(plan["arguments"])
    # out of the way first: a source may sit on a target's number
    spare = {target: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 20) for target, source in given.items()}
    for target, source in spare.items():
        os.dup2(source, target)
    if plan["bubblewrap"]:
        launch.restrict({"RLIMIT_CORE": 0})
        os.execve(plan["bubblewrap"][0], plan["bubblewrap"], {})
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


def _processors(count: int) -> "tuple[set[int], list[int]]":
    """The processors to run on, and locks on them that other sandboxes of this machine respect as far as they can.

    The lock is on the processor's own folder in /sys: no file is made, and it ends with its holder.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if count >= len(allowed):
        return set(allowed), []
    start = os.getpid() % len(allowed)  # two who both find every lock taken rarely choose the same
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


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("sia")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
