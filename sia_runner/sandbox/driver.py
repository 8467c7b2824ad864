"""The runner's side of a sandbox: plan a job, run it under a supervisor, and check that a sandbox works here.

A backend builds a plan with the helpers here: the common part, the part of sandboxes with an image, and the
unprivileged user that a harness of root gets. A supervisor carries the plan out. A trial job in the sandbox itself is
the only sure check that it works on this machine, and that it holds its limits.
"""

import contextlib
import marshal
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sia_runner.records import GatewayAddress
from sia_runner.sandbox import cgroups, seccomp, workdir
from sia_runner.sandbox.inside import OURS
from sia_runner.sandbox.protocol import Ending, Sandbox, SandboxError, SandboxJob, SandboxLimits, SandboxResult
from sia_runner.system import PrestartedProcess

_PACKAGES = Path(__file__).resolve().parents[2]
# -I -S -E: nothing that a harness could leave behind (site, user site, PYTHON*, the current folder) is ever read
_BOOT = "import sys; sys.path.append(sys.argv[1]); from sia_runner.sandbox.supervisor import main; main()"
_PATIENCE = 30.0  # seconds for the supervisor to clean up once it was told to stop
_PORT = 7421  # of the relay, in a network of its own: always the same, so that harnesses print the same
_FREE = 64 << 20  # bytes that stay free on the disk of work/, whoever fills it


def installed_program(name: str, missing: str) -> str:
    """Return the real path of a program; raise SandboxError with the message `missing` if PATH has none."""
    path = shutil.which(name)
    if not path:
        raise SandboxError(missing)
    return os.path.realpath(path)


def kernel_gaps(who: str, uncounted: str) -> list[str]:
    """List what a sandbox on the host's kernel does not protect; `uncounted`: the memory that samples miss."""
    gaps = [f"A hole in the kernel itself is a way out: {who} the host's kernel."]
    if cgroups.can_create():
        return gaps
    sampled = "No cgroup can be made here: memory is sampled every 50 ms and may overshoot by about 100 MiB per cpu"
    return [*gaps, f"{sampled}, and {uncounted} not counted."]


def check_job(job: SandboxJob) -> None:
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


def base_plan(job: SandboxJob, *, launch: dict[str, Any], shared_uid: bool) -> dict[str, Any]:
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


def harness_environment(job: SandboxJob, python: str, work: str, tmp: str) -> dict[str, str]:
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


def relay_plan(job: SandboxJob, socket: str, way: str, calls: bytes) -> dict[str, Any] | None:
    """Build the relay's part of a plan (see `door`); None for a job without a gateway.

    `socket`: the gateway's, as the relay sees it; `calls`: the relay's filter of system calls.
    """
    if not job.door:
        return None
    direct = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    port = 0 if way == "loopback" else _PORT
    return {"socket": socket, "port": port, "env": {**direct, **job.door.env}, "filter": calls, "way": way}


def harness_command(python: str, harness: str, job: SandboxJob, data: str, work: str) -> list[str]:
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


_supervisors = PrestartedProcess(_start)


def run_job(job: SandboxJob, plan_of: Callable[[SandboxJob], dict[str, Any]]) -> SandboxResult:
    """Check the job, let a backend make a plan of it, and carry the plan out."""
    try:
        check_job(job)
        plan = plan_of(job)
    except SandboxError as error:
        return result_not_started(str(error))
    return supervise(plan)


def supervise(plan: dict[str, Any]) -> SandboxResult:
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
            return result_not_started(f"the supervisor died: {complaint[-1] if complaint else supervisor.returncode}")
    return _result_of(marshal.loads(answer[4:]))  # noqa: S302 (written by our own supervisor)


def result_not_started(detail: str) -> SandboxResult:
    """Return the result of a job that could not be started, with the reason."""
    return SandboxResult(Ending.NOT_STARTED, None, 0.0, 0.0, 0.0, 0, detail)


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


def _result_of(result: dict[str, Any]) -> SandboxResult:
    if result["ending"] == "not_started" and "seconds" not in result:
        return result_not_started(result["detail"])
    return SandboxResult(**{**result, "ending": Ending(result["ending"])})


# No account uses these (systemd keeps this range for users that exist while a service runs).
_FIRST_UID, _LAST_UID = 61184, 65519
_NOBODY_UID = 65534


def unprivileged_uid() -> int:
    """Return a user and group number for one run, so that simultaneous runs cannot reach each other.

    Raises SandboxError where root itself lives in a user namespace that has no such number.
    """
    mapped = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    candidate = _FIRST_UID + int.from_bytes(os.urandom(4), "big") % (_LAST_UID - _FIRST_UID)
    for uid in (candidate, _NOBODY_UID):
        if any(first <= uid < first + count for first, _, count in mapped):
            return uid
    raise SandboxError("root has no unprivileged user number to give to a harness here; run as an ordinary user")


def kernel_version() -> tuple[int, int]:
    """Return the kernel's version as (major, minor)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdecimal()) or 0)


def first_closed_folder(paths: list[str]) -> str:
    """Return the first folder on the way to these paths that other users may not enter; empty when none."""
    for path in paths:
        for folder in (*reversed(Path(os.path.realpath(path)).parents), Path(path)):
            if folder.is_dir() and not folder.stat().st_mode & 0o001:
                return os.fspath(folder)
    return ""


CONTAINER_WORK = "/sandbox/work"  # the only path that is not read-only
FIRST_PROCESS = ["python3", "-I", "-S", "-E", f"{OURS}/sia_runner/sandbox/inside.py"]
FIRST_PROCESS_COUNT = 1  # processes: `inside`

_HERE = Path(__file__).resolve().parent
_HARNESS, _DATA, _GATEWAY = "/sandbox/harness", "/sandbox/data", "/sandbox/gateway.sock"
_CONTAINER_MODULES = ("inside.py", "launch.py", "relay.py")
_CONTAINER_ETC = ("passwd", "group", "hosts", "resolv.conf")


def container_plan(job: SandboxJob, uid: int | None, *, kind: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a plan without the backend's own keys, and the read-only files as path inside -> path here.

    `uid`: the unprivileged user that a harness of root gets. Raises SandboxError for a job with a Python of this
    machine.
    """
    if job.python:
        raise SandboxError(
            f"sandbox={kind} runs the Python of its image, not an environment of requirements.txt; "
            "build an image with these packages and name it in sandbox.image"
        )
    calls = seccomp.filter_program(sockets="namespace", own_files=True)
    launch = {
        "argv": harness_command("python3", _HARNESS, job, _DATA, CONTAINER_WORK),
        "env": harness_environment(job, "/usr/bin/python3", CONTAINER_WORK, "/tmp"),  # noqa: S108 (the container's own)
        "cwd": CONTAINER_WORK,
        "uid": uid,
        "filter": calls,
        "door": relay_plan(job, _GATEWAY, "namespace", calls),
        "pdeathsig": False,  # all of a container ends with its first process
    }
    plan = base_plan(job, launch=launch, shared_uid=uid is None)
    launch["rlimits"]["RLIMIT_NPROC"] += FIRST_PROCESS_COUNT
    visible = {_HARNESS: os.fspath(job.harness.resolve()), _DATA: os.fspath(job.data.resolve())}
    if uid is not None:
        workdir.copy_private(visible, plan)
    visible |= {f"{OURS}/sia_runner/sandbox/{name}": os.fspath(_HERE / name) for name in _CONTAINER_MODULES}
    visible |= {f"/etc/{name}": os.fspath(_HERE / "etc" / name) for name in _CONTAINER_ETC}
    if job.door:
        visible[_GATEWAY] = os.fspath(job.door.socket.resolve())
    return plan, visible


def image_folder() -> Path:
    """Return the folder with the Dockerfile of the image."""
    return _HERE / "image"


_TRIAL = "open('made', 'w').close()\n"
_CONNECTING_TRIAL = (
    "import os, socket\n"
    "host, port = os.environ['DOOR'].removeprefix('http://').split(':')\n"
    "socket.create_connection((host, int(port)), 10).close()\n" + _TRIAL
)


_EXCEEDING_TRIAL = """
import os, signal, time
children = []
while len(children) < {processes}:
    try:
        child = os.fork()
    except OSError:
        break
    if child == 0:
        time.sleep(60)
        os._exit(0)
    children.append(child)
else:
    open('processes', 'w').close()
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
open('began', 'w').close()
blocks = []
while len(blocks) < {blocks}:
    blocks.append(bytearray(8 << 20))
    blocks[-1][::4096] = b'x' * len(blocks[-1][::4096])
open('memory', 'w').close()
"""
_MEMORY_MB, _PROCESSES = 64, 12


def ignored_limits(run: Callable[[SandboxJob], SandboxResult]) -> tuple[str, ...]:
    """Return those of ``memory`` and ``processes`` that a program far exceeds under `run`.

    Raises SandboxError where the program could not even start.
    """
    program = _EXCEEDING_TRIAL.format(processes=4 * _PROCESSES, blocks=3 * _MEMORY_MB // 8)
    with _trial_job(program) as job:
        limits = SandboxLimits(seconds=30, memory_mb=_MEMORY_MB, processes=_PROCESSES)
        result = run(replace(job, limits=limits))
        if not (job.work / "began").is_file():
            raise SandboxError(f"no sandbox can be made here: {result.detail or result.ending.value}")
        return tuple(name for name in ("memory", "processes") if (job.work / name).is_file())


def probe_failure(sandbox: Sandbox, door: bool) -> str:
    """Explain in one line why `sandbox` does not work here; return an empty string when it does.

    A trivial harness must run, connect to a socket outside where `door` is set, and write its file.
    """
    with _trial_job(_CONNECTING_TRIAL if door else _TRIAL) as job:
        with _silent_gateway(job.work.parent) if door else contextlib.nullcontext() as gateway:
            result = sandbox.run(replace(job, door=gateway))
        if result.ending is Ending.EXITED and result.exit_code == 0 and (job.work / "made").is_file():
            return ""
    return f"{sandbox.name} cannot make a sandbox here: {result.detail or result.ending.value}"


@contextlib.contextmanager
def _trial_job(program: str) -> Iterator[SandboxJob]:
    """Make the folders of one trial job."""
    with tempfile.TemporaryDirectory(prefix="sia-check-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # a harness may run as another user
        for part in ("harness", "data", "work"):
            (folder / part).mkdir()
        (folder / "harness" / "main.py").write_text(program)
        yield SandboxJob(
            folder / "harness", "main.py", folder / "data", folder / "work", folder / "log", SandboxLimits(seconds=30)
        )


@contextlib.contextmanager
def _silent_gateway(folder: Path) -> Iterator[GatewayAddress]:
    """Listen and never answer: the kernel accepts the connection."""
    path = folder / "gateway"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        yield GatewayAddress(path, {"DOOR": "{url}"})
