"""The runner's side of a sandbox: plan a job, run it under a supervisor, and check by trial jobs that it works here."""

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
from sia_runner.sandbox.launch import OURS, pack
from sia_runner.sandbox.protocol import Ending, Sandbox, SandboxError, SandboxJob, SandboxLimits, SandboxResult
from sia_runner.system import PrestartedProcess

_HERE = Path(__file__).resolve().parent
_PATIENCE = 30.0  # seconds for the supervisor to clean up once it was told to stop
_PORT = 7421  # of the relay, in a network of its own: always the same, so that harnesses print the same
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
SMALL_MB = 64  # of /tmp and of /dev/shm, each, where they are file systems in memory
FULL_ERRORS = ("No space left on device", "Bus error", "SIGBUS")  # in the output of a program that filled them
FULL_NOTE = f"in this sandbox /tmp and /dev/shm, the shared memory, hold {SMALL_MB} MiB each; work/ holds more"
SAMPLED = "No cgroup can be made here: memory is sampled every 50 ms and may overshoot by about 100 MiB per cpu"
_FREE = 64 << 20  # bytes that stay free on the disk of work/, whoever fills it

HARNESS, DATA, GATEWAY = "/sandbox/harness", "/sandbox/data", "/sandbox/gateway.sock"  # paths inside
WORK = "/sandbox/work"  # the only one that is not read-only
# No account uses these (systemd keeps this range for users that exist while a service runs).
_FIRST_UID, _LAST_UID = 61184, 65519
_NOBODY_UID = 65534
FIRST_PROCESS = ["python3", "-I", "-S", "-E", f"{OURS}/sia_runner/sandbox/inside.py"]
FIRST_PROCESS_COUNT = 1  # processes: `inside`


def own_python(code: str) -> list[str]:
    """Return a command that runs code with this package."""
    # -I -S -E: nothing that a harness could leave behind (site, user site, PYTHON*, the current folder) is ever read
    code = f"import sys; sys.path.append(sys.argv[1]); {code}"
    return [sys.executable, "-I", "-S", "-E", "-c", code, os.fspath(_HERE.parents[1])]


def installed_program(name: str, missing: str) -> str:
    """Return the real path of a program; raise SandboxError with the message `missing` if PATH has none."""
    path = shutil.which(name)
    if not path:
        raise SandboxError(missing)
    return os.path.realpath(path)


def kernel_gaps(who: str, uncounted: str) -> list[str]:
    """List what a sandbox on the host's kernel does not protect; `uncounted`: the memory that samples miss."""
    gaps = [f"A hole in the kernel itself is a way out: {who} the host's kernel."]
    return gaps if cgroups.can_create() else [*gaps, f"{SAMPLED}, and {uncounted} not counted."]


def check_job(job: SandboxJob) -> None:
    """Raise SandboxError for a job whose files are not where they have to be."""
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
    if job.gateway and not job.gateway.socket.is_socket():
        raise SandboxError(f"the model gateway has no socket at {job.gateway.socket}")


def base_plan(
    job: SandboxJob,
    python: str,
    *,
    uid: int | None,
    shared_uid: bool,
    harness: str = HARNESS,
    data: str = DATA,
    work: str = WORK,
    temporary: str = "/tmp",  # noqa: S108 (the sandbox's own)
    gateway: str = GATEWAY,
    sockets: seccomp.Sockets = "namespace",
    own_files: bool = True,
    filters: bool = True,
) -> dict[str, Any]:
    """Build the part of a plan that every backend needs: sizes in bytes, paths as the harness and relay see them."""
    limits = job.limits
    relays = 1 if job.gateway else 0  # the harness may have as many processes as without one
    folder = job.work.resolve()

    def filter_of(sockets: seccomp.Sockets) -> bytes:
        return seccomp.filter_program(sockets=sockets, own_files=own_files) if filters else b""

    rlimits = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": limits.file_mb << 20, "RLIMIT_NOFILE": 1024}
    rlimits |= {"RLIMIT_NPROC": limits.processes + relays, "RLIMIT_CPU": int(limits.seconds * limits.cpus) + 10}
    sizes = {"memory": limits.memory_mb << 20, "disk": limits.disk_mb << 20, "output": limits.output_kb << 10}
    counts = {"seconds": limits.seconds, "processes": limits.processes, "cpus": limits.cpus}
    connection = job.gateway and {
        "socket": gateway,
        "port": 0 if sockets == "loopback" else _PORT,
        "env": {**dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"), **job.gateway.env},
        "filter": filter_of("namespace"),
        "way": "loopback" if sockets == "loopback" else "namespace",
    }
    launch = {
        "argv": [python, "-s", f"{harness}/{job.entry}", "--dataset_dir", data, "--working_dir", work],
        "env": {  # built from nothing
            "PATH": f"{os.path.dirname(python)}:/usr/local/bin:/usr/bin:/bin",
            **dict.fromkeys(("HOME", "JOBLIB_TEMP_FOLDER"), work),  # joblib hands large arrays to its workers as files
            "TMPDIR": temporary,
            **dict.fromkeys(("USER", "LOGNAME"), "sandbox"),
            "LANG": "C.UTF-8",
            **dict.fromkeys(("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"), "1"),
            "PYTHONHASHSEED": "0",  # a resumed run meets the same set order
            **dict.fromkeys(_THREADS, str(limits.cpus)),
            **job.env,
        },
        "cwd": work,
        "uid": uid,
        "filter": filter_of(sockets),
        "gateway": connection,
        "pdeathsig": False,
        "rlimits": rlimits,
    }
    return {
        **dict.fromkeys(("bubblewrap", "apptainer", "container", "tmp")),  # one of the first three is the backend's
        "launch": launch,
        "shared_uid": shared_uid,
        "relays": relays,
        "work": os.fspath(folder),
        "log": os.fspath(job.log.resolve()),
        "lock": os.fspath(folder.parent / f".{folder.name}.lock"),
        "scratch": os.fspath(folder.parent / f".{folder.name}.shown"),
        "hint": ((), ""),  # words in the output of a program that failed, and what the sandbox has to do with them
        "copies": [],
        "limits": {**sizes, **counts, "free": _FREE},
    }


def read_only_files(job: SandboxJob, plan: dict[str, Any], modules: list[str], etc: list[str]) -> dict[str, str]:
    """Map paths inside to paths here. The plan orders copies of what a harness of root, another user, cannot read."""
    files = {HARNESS: os.fspath(job.harness.resolve()), DATA: os.fspath(job.data.resolve())}
    if plan["launch"]["uid"] is not None:
        for inside, source in files.items():
            if not workdir.readable_by_all(source):
                files[inside] = f"{plan['scratch']}/{os.path.basename(inside)}"
                plan["copies"].append((source, files[inside]))
    files |= {f"{OURS}/sia_runner/sandbox/{name}": os.fspath(_HERE / name) for name in modules}
    files |= {f"/etc/{name}": os.fspath(_HERE / "etc" / name) for name in etc}
    if job.gateway:
        files[GATEWAY] = os.fspath(job.gateway.socket.resolve())
    return files


def _start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        own_python("from sia_runner.sandbox.supervisor import main; main()"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={},  # /proc shows it to every process of the same user
        cwd="/",
        start_new_session=True,  # Ctrl-C is for the runner to handle
    )


_supervisors = PrestartedProcess(_start)


def run_job(job: SandboxJob, plan_of: Callable[[SandboxJob], dict[str, Any]]) -> SandboxResult:
    """Check the job, let a backend plan it, and carry it out; the sandbox ends with this call, however that ends."""
    try:
        check_job(job)
        plan = plan_of(job)
    except SandboxError as error:
        return SandboxResult(Ending.NOT_STARTED, detail=str(error))
    supervisor = _supervisors.take()
    assert supervisor.stdin and supervisor.stdout and supervisor.stderr  # noqa: S101 (for the type checker)
    with supervisor.stdout, supervisor.stderr:
        try:
            supervisor.stdin.write(pack(plan))
            supervisor.stdin.flush()
            _supervisors.warm()  # for the next run, while this one is under way
            answer = supervisor.stdout.read()
        except BrokenPipeError:
            answer = b""
        finally:  # the end of its standard input tells it to clean up; an ordinary end needs nothing more
            with contextlib.suppress(BrokenPipeError):
                supervisor.stdin.close()
            try:
                supervisor.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                supervisor.kill()
                supervisor.wait()
        if len(answer) < 5:
            complaint = supervisor.stderr.read().decode(errors="replace").strip().splitlines()
            why = complaint[-1] if complaint else supervisor.returncode
            return SandboxResult(Ending.NOT_STARTED, detail=f"the supervisor died: {why}")
    result = marshal.loads(answer[4:])  # noqa: S302 (written by our own supervisor)
    return SandboxResult(**{**result, "ending": Ending(result["ending"])})


def unprivileged_uid() -> int:
    """Return a user and group number for one run, so that simultaneous runs cannot reach each other."""
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


def container_plan(job: SandboxJob, *, kind: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a plan and its `read_only_files`; raise SandboxError for a job with a Python of this machine."""
    if job.python:
        raise SandboxError(
            f"sandbox={kind} runs the Python of its image, not an environment of requirements.txt; "
            "build an image with these packages and name it in sandbox.image"
        )
    uid = unprivileged_uid() if os.geteuid() == 0 else None
    plan = base_plan(job, "/usr/bin/python3", uid=uid, shared_uid=uid is None)
    plan["launch"]["rlimits"]["RLIMIT_NPROC"] += FIRST_PROCESS_COUNT
    modules, etc = ["inside.py", "launch.py", "relay.py"], ["passwd", "group", "hosts", "resolv.conf"]
    return plan, read_only_files(job, plan, modules, etc)


IMAGE_FOLDER = _HERE / "image"  # with the Dockerfile of the image

_TRIAL = "open('made', 'w').close()\n"
_CONNECTING_TRIAL = (
    "import os, socket\n"
    "host, port = os.environ['GATEWAY'].removeprefix('http://').split(':')\n"
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
    """Return which of ``memory`` and ``processes`` a program far exceeds; raise SandboxError if it does not start."""
    program = _EXCEEDING_TRIAL.format(processes=4 * _PROCESSES, blocks=3 * _MEMORY_MB // 8)
    with _trial_job(program) as job:
        limits = SandboxLimits(seconds=30, memory_mb=_MEMORY_MB, processes=_PROCESSES)
        result = run(replace(job, limits=limits))
        if not (job.work / "began").is_file():
            raise SandboxError(f"no sandbox can be made here: {result.detail or result.ending.value}")
        return tuple(name for name in ("memory", "processes") if (job.work / name).is_file())


def try_out(sandbox: Sandbox, with_gateway: bool) -> None:
    """Raise SandboxError unless a trivial harness runs and writes its file.

    `with_gateway`: it has to connect to a socket outside, too.
    """
    with _trial_job(_CONNECTING_TRIAL if with_gateway else _TRIAL) as job:
        with _silent_gateway(job.work.parent) if with_gateway else contextlib.nullcontext() as gateway:
            result = sandbox.run(replace(job, gateway=gateway))
        if result.ending is not Ending.EXITED or result.exit_code != 0 or not (job.work / "made").is_file():
            why = result.detail or f"{result.ending.value} with code {result.exit_code}"
            if result.exit_code == 127:  # its interpreter was not started
                why += f"; {sys.prefix} has to be readable by other users"
            if "loading shared libraries" in why:  # of a module of a cluster, say
                why += "; a harness gets no LD_LIBRARY_PATH: install into a Python that needs none (conda's, uv's)"
            raise SandboxError(f"{sandbox.name} cannot make a sandbox here: {why}")


@contextlib.contextmanager
def _trial_job(program: str) -> Iterator[SandboxJob]:
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
        yield GatewayAddress(path, {"GATEWAY": "{url}"})
