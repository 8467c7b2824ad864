"""bubblewrap: every namespace unshared, a root file system made of read-only pieces, no capabilities, seccomp."""

import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from sia_runner.sandbox import driver, interpreter
from sia_runner.sandbox.launch import ARGS_FD, OURS
from sia_runner.sandbox.protocol import Sandbox, SandboxError, SandboxJob, SandboxResult


class Bubblewrap(Sandbox):
    """The `bubblewrap` sandbox."""

    name = "bubblewrap"

    def check(self, *, with_gateway: bool = False) -> None:
        """Raise SandboxError when this backend cannot work here."""
        _check(with_gateway)

    def gaps(self, *, with_gateway: bool = False) -> list[str]:
        """List what this backend does not protect on this machine, one sentence each."""
        return driver.kernel_gaps("bubblewrap shares", f"{2 * driver.SMALL_MB} MiB in /tmp and /dev/shm are")

    def run(self, job: SandboxJob) -> SandboxResult:
        """Run one job to its end or to a limit."""
        return driver.run_job(job, _plan)


def _plan(job: SandboxJob) -> dict[str, Any]:
    python = interpreter.python_path(job)
    uid = driver.unprivileged_uid() if os.geteuid() == 0 else None
    # Since Linux 5.14 a user namespace counts its own processes.
    plan = driver.base_plan(job, python, uid=uid, shared_uid=uid is None and driver.kernel_version() < (5, 14))
    modules = ["launch.py", "relay.py"] if job.gateway else ["launch.py"]
    files = driver.read_only_files(job, plan, modules, ["passwd", "group", "hosts"])
    arguments = _arguments(python, files, plan["work"], as_root=uid is not None)
    program = f"{OURS}/sia_runner/sandbox/launch.py"
    plan["hint"] = driver.FULL_ERRORS, driver.FULL_NOTE
    plan["bubblewrap"] = [_program(), "--args", str(ARGS_FD), python, "-I", "-S", "-E", program]
    plan["arguments"] = b"\0".join(os.fsencode(argument) for argument in arguments)
    return plan


def _arguments(python: str, files: dict[str, str], work: str, *, as_root: bool) -> list[str]:
    visible = interpreter.visible_paths(python)
    interpreter.refuse_visible([work, files[driver.HARNESS], files[driver.DATA]], visible)
    small = ["--perms", "1777", "--size", str(driver.SMALL_MB << 20), "--tmpfs"]
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
    binds |= {path: path for path in visible} | files
    # bwrap would make the folders on the way for root alone
    for folder in sorted({os.fspath(parent) for path in binds for parent in Path(path).parents} - {"/"}):
        arguments += ["--perms", "0755", "--dir", folder]
    for inside, source in binds.items():
        arguments += ["--ro-bind", source, inside]
    return [*arguments, "--bind", work, driver.WORK, "--remount-ro", "/dev", "--remount-ro", "/"]


def _program() -> str:
    return driver.installed_program("bwrap", "bubblewrap is not installed (its program bwrap is not on PATH)")


@lru_cache(maxsize=1)
def _options() -> str:
    return subprocess.run([_program(), "--help"], capture_output=True, text=True, check=False, timeout=10).stdout


@lru_cache(maxsize=2)
def _check(with_gateway: bool) -> None:
    if "--size" not in _options():
        raise SandboxError("this bubblewrap is too old; 0.6 or newer is needed")
    driver.try_out(Bubblewrap(), with_gateway)
