"""bubblewrap: every namespace unshared, a root file system made of read-only pieces, no capabilities, seccomp."""

import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from sia_runner.sandbox import driver, interpreter, seccomp, workdir
from sia_runner.sandbox.driver import base_plan, harness_command, harness_environment, relay_plan, run_job
from sia_runner.sandbox.launch import ARGS_FD, OURS
from sia_runner.sandbox.protocol import SandboxError, SandboxJob, SandboxResult

_HERE = Path(__file__).resolve().parent
_HARNESS, _DATA, _WORK, _LAUNCH = "/sandbox/harness", "/sandbox/data", "/sandbox/work", "/sandbox/launch.py"
_GATEWAY = "/sandbox/gateway.sock"
_SMALL_MB = 64  # of /tmp and of /dev/shm, each


class Bubblewrap:
    """The `bubblewrap` sandbox."""

    name = "bubblewrap"

    def check(self, *, door: bool = False) -> None:
        """Raise SandboxError when this backend cannot work here."""
        problem = _problem(door)
        if problem:
            raise SandboxError(problem)

    def gaps(self, *, door: bool = False) -> list[str]:
        """List what this backend does not protect on this machine, one sentence each."""
        del door  # opens nothing else here
        return driver.kernel_gaps("bubblewrap shares", f"{2 * _SMALL_MB} MiB in /tmp and /dev/shm are")

    def versions(self) -> dict[str, str]:
        """Return nothing: a harness sees this machine's own Python."""
        return {}

    def run(self, job: SandboxJob) -> SandboxResult:
        """Run one job to its end or to a limit."""
        return run_job(job, _plan)


def _plan(job: SandboxJob) -> dict[str, Any]:
    python = interpreter.python_path(job)
    uid = driver.unprivileged_uid() if os.geteuid() == 0 else None
    calls = seccomp.filter_program(sockets="namespace", own_files=True)
    launch = {
        "argv": harness_command(python, _HARNESS, job, _DATA, _WORK),
        "env": harness_environment(job, python, _WORK, "/tmp"),  # noqa: S108 (the sandbox's own)
        "cwd": _WORK,
        "uid": uid,
        "filter": calls,
        "door": relay_plan(job, _GATEWAY, "namespace", calls),
        "pdeathsig": False,  # bwrap --die-with-parent
    }
    # Since Linux 5.14 a user namespace counts its own processes.
    plan = base_plan(job, launch=launch, shared_uid=uid is None and driver.kernel_version() < (5, 14))
    sources = {_HARNESS: os.fspath(job.harness.resolve()), _DATA: os.fspath(job.data.resolve())}
    if uid is not None:
        workdir.copy_private(sources, plan)
    ours = _relay_files(os.fspath(job.door.socket.resolve())) if job.door else {}
    arguments = _arguments(python, sources, ours, plan["work"], as_root=uid is not None)
    plan["bubblewrap"] = [_program(), "--args", str(ARGS_FD), python, "-I", "-S", "-E", _LAUNCH]
    plan["arguments"] = b"\0".join(os.fsencode(argument) for argument in arguments)
    return plan


def _relay_files(socket: str) -> dict[str, str]:
    """Map paths inside to the relay's modules, laid out as their package, and to the gateway's socket."""
    modules = {f"{OURS}/sia_runner/sandbox/{name}": os.fspath(_HERE / name) for name in ("relay.py",)}
    return {**modules, _GATEWAY: socket}


def _arguments(python: str, sources: dict[str, str], ours: dict[str, str], work: str, *, as_root: bool) -> list[str]:
    visible = interpreter.visible_paths(python)
    interpreter.refuse_visible([work, *sources.values()], visible)
    small = ["--perms", "1777", "--size", str(_SMALL_MB << 20), "--tmpfs"]
    arguments = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    if as_root:  # launch.py changes to a stranger's uid, then nothing has any capability
        arguments += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        arguments += ["--cap-add", "CAP_SETPCAP"]
    else:
        arguments += ["--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL"]
        if "--disable-userns" in _options():  # since 0.8; the system call filter refuses them in any case
            arguments.append("--disable-userns")
    arguments += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "sandbox"]
    arguments += ["--proc", "/proc", "--dev", "/dev", *small, "/dev/shm", *small, "/tmp"]  # noqa: S108
    binds: dict[str, str] = {}
    for path in interpreter.TOP_LEVEL_FOLDERS:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            binds[path] = path
    binds |= {path: path for path in visible}
    binds |= {f"/etc/{name}": os.fspath(_HERE / "etc" / name) for name in ("passwd", "group", "hosts")}
    binds |= {_LAUNCH: os.fspath(_HERE / "launch.py"), **ours, **sources}
    # bwrap would make the folders on the way for root alone
    for folder in sorted({os.fspath(parent) for path in binds for parent in Path(path).parents} - {"/"}):
        arguments += ["--perms", "0755", "--dir", folder]
    for inside, source in binds.items():
        arguments += ["--ro-bind", source, inside]
    return [*arguments, "--bind", work, _WORK, "--remount-ro", "/dev", "--remount-ro", "/"]


def _program() -> str:
    return driver.installed_program("bwrap", "bubblewrap is not installed (its program bwrap is not on PATH)")


@lru_cache(maxsize=1)
def _options() -> str:
    return subprocess.run([_program(), "--help"], capture_output=True, text=True, check=False, timeout=10).stdout


@lru_cache(maxsize=2)
def _problem(door: bool) -> str:
    """Explain in one line why bubblewrap does not work here; return an empty string when a trial job ran in it.

    With `door` the trial job also connects to a socket outside.
    """
    try:
        options = _options()
    except SandboxError as error:
        return str(error)
    if "--size" not in options:
        return "this bubblewrap is too old; 0.6 or newer is needed"
    if not seccomp.has_call_table():
        return f"there is no system call table for this processor ({os.uname().machine}); x86_64 and aarch64 have one"
    return driver.probe_failure(Bubblewrap(), door)
