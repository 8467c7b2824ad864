"""The `process` sandbox: no namespaces, but rlimits, Landlock, seccomp, and another user where the runner is root."""

import os
import platform
import pwd
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from sia_runner.sandbox import cgroups, driver, interpreter, landlock, seccomp, workdir
from sia_runner.sandbox.protocol import Sandbox, SandboxError, SandboxJob, SandboxResult

# numeric libraries ask; the module mimetypes fails where its file is seen and cannot be read
_READ = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu", "/etc/mime.types")
_DEVICES = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"]
_LANDLOCK_TCP = 4  # ABI
_SOCKETS: dict[str, seccomp.Sockets] = {"": "none", "namespace": "network", "loopback": "loopback"}
_FILTER_FILE = "/proc/sys/kernel/seccomp/actions_avail"  # exists exactly where the kernel filters system calls


class Process(Sandbox):
    """The `process` sandbox."""

    name = "process"

    def __init__(self, instead_of: str = "") -> None:
        self._instead_of = instead_of  # why the better sandbox is not used; listed among the gaps

    def check(self, *, with_gateway: bool = False) -> None:
        """Raise SandboxError when this backend cannot work here."""
        _check(with_gateway)

    def gaps(self, *, with_gateway: bool = False) -> list[str]:
        """List what this backend does not protect on this machine, one sentence each."""
        gaps = [f"This is the weaker sandbox: {self._instead_of}."] if self._instead_of else []
        closed = driver.first_closed_folder([sys.prefix, sys.base_prefix])
        gaps += _gaps(landlock.landlock_abi(), _has_filters(), cgroups.can_create(), closed)
        if with_gateway and _relay_route() == "loopback":
            gaps.append(
                "No network namespace can be made here: the relay to the model gateway listens on this machine's "
                "loopback, where other programs can connect to it too (the gateway asks for the token of the run)."
            )
        return gaps

    def run(self, job: SandboxJob) -> SandboxResult:
        """Run one job to its end or to a limit."""
        return driver.run_job(job, _plan)


def _plan(job: SandboxJob) -> dict[str, Any]:
    python = interpreter.python_path(job)
    harness, data, work = (os.fspath(path.resolve()) for path in (job.harness, job.data, job.work))
    visible = interpreter.visible_paths(python)
    interpreter.refuse_visible([harness, data, work], visible)
    root = os.geteuid() == 0
    paths = [sys.prefix, sys.base_prefix, python, harness, data, work]
    stranger = root and not driver.first_closed_folder(paths) and all(map(workdir.readable_by_all, (harness, data)))
    socket = way = ""
    if job.gateway:
        socket, way = os.fspath(job.gateway.socket.resolve()), _required_route()
        closed = driver.first_closed_folder([socket]) if stranger else ""
        if closed:
            why = f"cannot be reached by the harness's user: {closed} is closed"
            raise SandboxError(f"the gateway's socket {socket} {why}")
    temporary = f"{work}/.tmp"
    plan = driver.base_plan(
        job,
        python,
        uid=driver.unprivileged_uid() if stranger else None,
        # a user number of its own is counted apart, and since Linux 5.14 a user namespace; root is not counted at all
        shared_uid=not root and not (way == "namespace" and driver.kernel_version() >= (5, 14)),
        harness=harness,
        data=data,
        work=work,
        temporary=temporary,
        gateway=socket,
        sockets=_SOCKETS[way],
        own_files=stranger,
        filters=_has_filters(),
    )
    plan["launch"]["pdeathsig"] = True
    plan["tmp"] = temporary
    note = "this sandbox has no /dev/shm: no shared memory, no semaphores; use threads, or files in work/"
    plan["hint"] = ("'/psm_", "shared memory object", "SemLock"), note
    certificates = interpreter.certificate_paths() if way else ()
    read = [*visible, *interpreter.TOP_LEVEL_FOLDERS, *_READ, *certificates, harness, data]
    plan["landlock"] = {"read": read, "write": [work], "devices": _DEVICES}
    return plan


@lru_cache(maxsize=1)
def _relay_route() -> str:
    """Return a harness's way to a relay: ``namespace``, ``loopback`` (the host's) or an empty string."""
    if _can_isolate():
        return "namespace"
    return "loopback" if landlock.landlock_abi() >= _LANDLOCK_TCP and _has_filters() else ""


def _can_isolate() -> bool:
    """Tell whether this user can have a network of its own, by trying: permissions alone do not tell."""
    program = driver.own_python("from sia_runner.sandbox.network import isolate; isolate()")
    return subprocess.run(program, capture_output=True, check=False, env={}, timeout=30).returncode == 0


def _required_route() -> str:
    way = _relay_route()
    if not way:
        raise SandboxError(
            "the process sandbox cannot let a harness reach the model gateway alone: no network namespace can be made, "
            f"and Landlock, ABI {landlock.landlock_abi()}, cannot confine TCP "
            f"(ABI {_LANDLOCK_TCP}, Linux 6.7); install bubblewrap"
        )
    return way


def _has_filters() -> bool:
    return platform.machine() in seccomp.ARCHITECTURES and Path(_FILTER_FILE).exists()


def _gaps(abi: int, filters: bool, cgroup: bool, closed: str) -> list[str]:
    """Write one sentence for each hole; `closed`: the folder because of which the harness of root stays root."""
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
    gaps.append("If the sandbox's supervisor is killed with SIGKILL, processes that the harness forked live on.")
    if not cgroup:
        gaps.append(f"{driver.SAMPLED}.")
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
def _check(with_gateway: bool) -> None:
    if with_gateway:
        _required_route()
    driver.try_out(Process(), with_gateway)
