"""The parts that the sandboxes with an image share: paths inside, visible files, how a harness starts."""

import os
from pathlib import Path
from typing import Any

from sia_runner.sandbox import seccomp, workdir
from sia_runner.sandbox.driver import base_plan, command, door, environment
from sia_runner.sandbox.inside import OURS
from sia_runner.sandbox.protocol import Job, SandboxError

WORK = "/sandbox/work"  # the only path that is not read-only
PROGRAM = ["python3", "-I", "-S", "-E", f"{OURS}/sia_runner/sandbox/inside.py"]
OURS_INSIDE = 1  # processes: `inside`

_HERE = Path(__file__).resolve().parent
_HARNESS, _DATA, _GATEWAY = "/sandbox/harness", "/sandbox/data", "/sandbox/gateway.sock"
_MODULES = ("inside.py", "launch.py", "door.py", "relay.py")
_ETC = ("passwd", "group", "hosts", "resolv.conf")


def plan_for(job: Job, uid: int | None, *, kind: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a plan without the backend's own keys, and the read-only files as path inside -> path here.

    `uid`: the unprivileged user that a harness of root gets. Raises SandboxError for a job with a Python of this
    machine.
    """
    if job.python:
        raise SandboxError(
            f"sandbox={kind} runs the Python of its image, not an environment of requirements.txt; "
            "build an image with these packages and name it in sandbox.image"
        )
    calls = seccomp.program(sockets="namespace", own_files=True)
    launch = {
        "argv": command("python3", _HARNESS, job, _DATA, WORK),
        "env": environment(job, "/usr/bin/python3", WORK, "/tmp"),  # noqa: S108 (the container's own)
        "cwd": WORK,
        "uid": uid,
        "filter": calls,
        "door": door(job, _GATEWAY, "namespace", calls),
        "pdeathsig": False,  # all of a container ends with its first process
    }
    plan = base_plan(job, launch=launch, shared_uid=uid is None)
    launch["rlimits"]["RLIMIT_NPROC"] += OURS_INSIDE
    visible = {_HARNESS: os.fspath(job.harness.resolve()), _DATA: os.fspath(job.data.resolve())}
    if uid is not None:
        workdir.copy_what_is_private(visible, plan)
    visible |= {f"{OURS}/sia_runner/sandbox/{name}": os.fspath(_HERE / name) for name in _MODULES}
    visible |= {f"/etc/{name}": os.fspath(_HERE / "etc" / name) for name in _ETC}
    if job.door:
        visible[_GATEWAY] = os.fspath(job.door.socket.resolve())
    return plan, visible


def recipe() -> Path:
    """Return the folder with the Dockerfile of the image."""
    return _HERE / "image"
