"""The runner's side of a sandbox: start a supervisor with a plan, wait, and return how the run ended."""

import contextlib
import marshal
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sia_runner.ground.standby import Standby
from sia_runner.sandbox.protocol import Ended, Ending, Job, SandboxError

_PACKAGES = Path(__file__).resolve().parents[2]
# -I -S -E: nothing that a harness could leave behind (site, user site, PYTHON*, the current folder) is ever read
_BOOT = "import sys; sys.path.append(sys.argv[1]); from sia_runner.sandbox.supervisor import main; main()"
_PATIENCE = 30.0  # seconds for the supervisor to clean up once it was told to stop
_PORT = 7421  # of the relay, in a network of its own: always the same, so that harnesses print the same
_FREE = 64 << 20  # bytes that stay free on the disk of work/, whoever fills it


def check_job(job: Job) -> None:
    """Raise SandboxError when the job cannot be run, in one line."""
    entry = job.harness / job.entry
    if not entry.resolve().is_relative_to(job.harness.resolve()):
        raise SandboxError(f"the entry {job.entry} lies outside its harness {job.harness}")
    if not entry.is_file():
        raise SandboxError(f"the harness {job.harness} has no file {job.entry}")
    for name, folder in (("data", job.data), ("work", job.work)):
        if not folder.is_dir():
            raise SandboxError(f"{name} folder {folder} does not exist")
    if job.log.resolve().is_relative_to(job.work.resolve()):
        raise SandboxError(f"the log {job.log} must lie outside work/, where a harness could replace it")
    if job.door and not job.door.socket.is_socket():
        raise SandboxError(f"the model gateway has no socket at {job.door.socket}")


def base_plan(job: Job, *, launch: dict[str, Any], shared_uid: bool) -> dict[str, Any]:
    """Build the part of a plan that every backend needs; sizes in bytes.

    Backends add their own keys to it.
    """
    limits = job.limits
    work = job.work.resolve()
    relays = 1 if job.door else 0  # the harness may have as many processes as without one
    launch["rlimits"] = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": limits.file_mb << 20,
        "RLIMIT_NOFILE": 1024,
        "RLIMIT_NPROC": limits.processes + relays,
        "RLIMIT_CPU": int(limits.seconds * limits.cpus) + 10,
    }
    return {
        "bubblewrap": None,
        "apptainer": None,
        "container": None,
        "arguments": b"",
        "landlock": None,
        "launch": launch,
        "shared_uid": shared_uid,
        "relays": relays,
        "work": os.fspath(work),
        "log": os.fspath(job.log.resolve()),
        "lock": os.fspath(work.parent / f".{work.name}.lock"),
        "scratch": os.fspath(work.parent / f".{work.name}.shown"),
        "tmp": None,
        "copies": [],
        "limits": {
            "seconds": limits.seconds,
            "memory": limits.memory_mb << 20,
            "processes": limits.processes,
            "disk": limits.disk_mb << 20,
            "output": limits.output_kb << 10,
            "cpus": limits.cpus,
            "free": _FREE,
        },
    }


def environment(job: Job, python: str, work: str, tmp: str) -> dict[str, str]:
    """Build the harness's environment from nothing."""
    threads = str(job.limits.cpus)
    return {
        "PATH": f"{os.path.dirname(python)}:/usr/local/bin:/usr/bin:/bin",
        "HOME": work,
        "TMPDIR": tmp,
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",  # a resumed run meets the same set order
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "LOKY_MAX_CPU_COUNT": threads,
        **job.env,
    }


def door(job: Job, socket: str, way: str, calls: bytes) -> dict[str, Any] | None:
    """Build the relay's part of a plan (see `door`); None for a job without a gateway.

    `socket`: the gateway's, as the relay sees it; `calls`: the relay's filter of system calls.
    """
    if not job.door:
        return None
    direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    port = 0 if way == "loopback" else _PORT
    return {"socket": socket, "port": port, "env": {**direct, **job.door.env}, "filter": calls, "way": way}


def command(python: str, harness: str, job: Job, data: str, work: str) -> list[str]:
    """Return ``python entry --dataset_dir data --working_dir work``, without the user's own site-packages."""
    return [python, "-s", f"{harness}/{job.entry}", "--dataset_dir", data, "--working_dir", work]


def _start() -> "subprocess.Popen[bytes]":
    """Start a supervisor that waits for its plan."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-E", "-c", _BOOT, os.fspath(_PACKAGES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},  # /proc shows it to every process of the same user
        cwd="/",
        start_new_session=True,  # Ctrl-C is for the runner to handle
    )


_supervisors = Standby(_start)


def run(job: Job, plan_of: Callable[[Job], dict[str, Any]]) -> Ended:
    """Check the job, let a backend make a plan of it, and carry the plan out."""
    try:
        check_job(job)
        plan = plan_of(job)
    except SandboxError as error:
        return not_started(str(error))
    return supervise(plan)


def supervise(plan: dict[str, Any]) -> Ended:
    """Run `plan` under a supervisor of its own.

    The sandbox ends with this process and with this call, however they end.
    """
    body = marshal.dumps(plan)
    supervisor = _supervisors.take()
    assert supervisor.stdin and supervisor.stdout and supervisor.stderr  # noqa: S101 (for the type checker)
    with supervisor.stdout, supervisor.stderr:
        try:
            supervisor.stdin.write(len(body).to_bytes(4, "big") + body)
            supervisor.stdin.flush()
            _supervisors.warm()  # for the next run, while this one is under way
            answer = supervisor.stdout.read()
        except BrokenPipeError:
            answer = b""
        finally:
            _stop(supervisor)
        if len(answer) < 5:
            complaint = supervisor.stderr.read().decode(errors="replace").strip().splitlines()
            return not_started(f"the supervisor died: {complaint[-1] if complaint else supervisor.returncode}")
    return _ended(marshal.loads(answer[4:]))  # noqa: S302 (written by our own supervisor)


def not_started(detail: str) -> Ended:
    """Return the result of a job that could not be started, with the reason."""
    return Ended(Ending.NOT_STARTED, None, 0.0, 0.0, 0.0, 0, detail)


def _stop(supervisor: "subprocess.Popen[bytes]") -> None:
    """Close the supervisor's standard input, which tells it to clean up; an ordinary end needs nothing more."""
    assert supervisor.stdin  # noqa: S101
    with contextlib.suppress(BrokenPipeError):
        supervisor.stdin.close()
    try:
        supervisor.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()


def _ended(result: dict[str, Any]) -> Ended:
    if result["ending"] == "not_started" and "seconds" not in result:
        return not_started(result["detail"])
    return Ended(**{**result, "ending": Ending(result["ending"])})
