"""The `process` sandbox: no namespaces, but rlimits, Landlock, seccomp, and another user where the runner is root.

For clusters and plain machines without bubblewrap. `gaps` lists what that leaves open on this machine.
"""

import os
import pwd
from functools import lru_cache
from pathlib import Path
from typing import Any

from sia_runner.sandbox import cgroups, driver, interpreter, landlock, network, seccomp, workdir
from sia_runner.sandbox.driver import base_plan, harness_command, harness_environment, relay_plan, run_job
from sia_runner.sandbox.protocol import SandboxError, SandboxJob, SandboxResult

_READ = (
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/sys/devices/system/cpu",  # numeric libraries ask
    "/etc/mime.types",
)  # the module mimetypes fails where it is seen and cannot be read
_DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
_LANDLOCK_TCP = 4  # ABI
_SOCKETS: dict[str, seccomp.Sockets] = {"": "none", "namespace": "network", "loopback": "loopback"}
_FILTER_FILE = "/proc/sys/kernel/seccomp/actions_avail"  # exists exactly where the kernel filters system calls


class Process:
    """The `process` sandbox."""

    name = "process"

    def __init__(self, instead_of: str = "") -> None:
        self._instead_of = instead_of  # why the better sandbox is not used; listed among the gaps

    def check(self, *, door: bool = False) -> None:
        """Raise SandboxError when this backend cannot work here."""
        problem = _problem(door)
        if problem:
            raise SandboxError(problem)

    def gaps(self, *, door: bool = False) -> list[str]:
        """List what this backend does not protect on this machine, one sentence each."""
        because = [f"This is the weaker sandbox: {self._instead_of}."] if self._instead_of else []
        gaps = because + _gaps(landlock.landlock_abi(), _has_filters(), cgroups.can_create(), _closed_to_strangers([]))
        return gaps + (_relay_gaps(_relay_route()) if door else [])

    def versions(self) -> dict[str, str]:
        """Return nothing: a harness sees this machine's own Python."""
        return {}

    def run(self, job: SandboxJob) -> SandboxResult:
        """Run one job to its end or to a limit."""
        return run_job(job, _plan)


def _plan(job: SandboxJob) -> dict[str, Any]:
    python = interpreter.python_path(job)
    harness, data, work = (os.fspath(path.resolve()) for path in (job.harness, job.data, job.work))
    visible = interpreter.visible_paths(python)
    interpreter.refuse_visible([harness, data, work], visible)
    root = os.geteuid() == 0
    stranger = root and not _closed_to_strangers([python, harness, data, work]) and _readable(harness, data)
    socket, way = _route_of(job, stranger)
    temporary = f"{work}/.tmp"
    launch = {
        "argv": harness_command(python, harness, job, data, work),
        "env": harness_environment(job, python, work, temporary),
        "cwd": work,
        "uid": driver.unprivileged_uid() if stranger else None,
        "filter": seccomp.filter_program(sockets=_SOCKETS[way], own_files=stranger) if _has_filters() else b"",
        "pdeathsig": True,
        "door": relay_plan(
            job, socket, way, seccomp.filter_program(sockets="namespace", own_files=stranger) if _has_filters() else b""
        ),
    }
    # a user number of its own is counted apart, and since Linux 5.14 a user namespace; root is not counted at all
    counted_apart = root or (way == "namespace" and driver.kernel_version() >= (5, 14))
    plan = base_plan(job, launch=launch, shared_uid=not counted_apart)
    plan["tmp"] = temporary
    plan["landlock"] = {
        "read": [
            *visible,
            *interpreter.TOP_LEVEL_FOLDERS,
            *_READ,
            *(interpreter.certificate_paths() if way else ()),
            harness,
            data,
        ],
        "write": [work],
        "devices": _DEVICES,
    }
    return plan


def _route_of(job: SandboxJob, stranger: bool) -> tuple[str, str]:
    """Return the gateway's socket and the way to it; both empty for a job without a gateway."""
    if not job.door:
        return "", ""
    socket, way = os.fspath(job.door.socket.resolve()), _relay_route()
    if not way:
        raise SandboxError(_no_route_message())
    closed = driver.first_closed_folder([socket]) if stranger else ""
    if closed:
        raise SandboxError(f"the gateway's socket {socket} cannot be reached by the harness's user: {closed} is closed")
    return socket, way


@lru_cache(maxsize=1)
def _relay_route() -> str:
    """Return a harness's way to a relay: ``namespace``, ``loopback`` (the host's) or an empty string."""
    if network.can_isolate():
        return "namespace"
    return "loopback" if landlock.landlock_abi() >= _LANDLOCK_TCP and _has_filters() else ""


def _no_route_message() -> str:
    return (
        "the process sandbox cannot let a harness reach the model gateway alone: no network namespace can be made, "
        f"and Landlock, ABI {landlock.landlock_abi()}, cannot confine TCP "
        f"(ABI {_LANDLOCK_TCP}, Linux 6.7); install bubblewrap"
    )


def _closed_to_strangers(paths: list[str]) -> str:
    """Return the folder that keeps an unprivileged user from Python or from these paths; empty when none."""
    return driver.first_closed_folder([*interpreter.python_prefixes(), *paths])


def _readable(*folders: str) -> bool:
    return all(workdir.readable_by_all(folder) for folder in folders)


def _has_filters() -> bool:
    return seccomp.has_call_table() and Path(_FILTER_FILE).exists()


def _gaps(abi: int, filters: bool, cgroup: bool, closed: str) -> list[str]:
    """Write one sentence for each hole.

    `closed` matters to root only: the folder because of which the harness stays root.
    """
    stranger = os.geteuid() == 0 and not closed
    user = _user()
    whose = "that every user of this machine" if stranger else f"that {user}"
    gaps = ["A hole in the kernel itself is a way out, and names, sizes and times of files anywhere can be seen."]
    if os.geteuid() == 0 and closed:
        gaps.append(f"The harness runs as root without capabilities, because {closed} keeps other users from Python.")
    if abi == 0:
        gaps.append(
            f"This kernel has no Landlock: a harness can read every file {whose} can read, gold answers included, "
            f"and change every file {whose} can change."
        )
    elif abi < 3 and not stranger:
        gaps.append(f"Landlock ABI {abi} does not cover truncation: a harness can empty files of {user}.")
    if not filters:
        gaps.append(
            "This kernel or processor has no system call filter for us: the network is open"
            + (" for all but TCP" if abi >= 4 else "")
            + ", and so is the kernel's whole surface."
        )
    if abi < 6 and not stranger:
        gaps.append(f"Landlock ABI {abi} does not cover signals: a harness can kill other processes of {user}.")
    if not stranger:
        gaps.append(f"Times of files of {user} can be changed" + ("." if filters else ", and their modes."))
    return gaps + _limit_gaps(stranger, cgroup)


def _relay_gaps(way: str) -> list[str]:
    if way != "loopback":
        return []
    return [
        "No network namespace can be made here: the relay to the model gateway listens on this machine's loopback, "
        "where other programs can connect to it too (the gateway asks for the token of the run)."
    ]


def _limit_gaps(stranger: bool, cgroup: bool) -> list[str]:
    gaps = ["If the sandbox's supervisor is killed with SIGKILL, processes that the harness forked live on."]
    if not cgroup:
        gaps.append(
            "No cgroup can be made here: memory is sampled every 50 ms and may overshoot by about 100 MiB per cpu."
        )
        if os.geteuid() == 0 and not stranger:
            gaps.append("The number of processes is sampled too: a fork bomb may overshoot it for 50 ms.")
        elif not stranger:
            gaps.append(f"The limit of processes also counts what else {_user()} starts during a run.")
    return gaps


def _user() -> str:
    """Return the runner's user name; its number where it has none, as in a container."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


@lru_cache(maxsize=2)
def _problem(door: bool) -> str:
    if door and not _relay_route():
        return _no_route_message()
    return driver.probe_failure(Process(), door)
