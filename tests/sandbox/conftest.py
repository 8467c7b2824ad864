"""Sandboxes to attack: each backend that works here, started by root and by an ordinary user.

When the tests run as root, the ordinary user is a process of another uid with a Python it can read (a hard-linked copy:
the real one may lie in root's home). When they do not, only that user's variants run and the others are skipped aloud.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from sia_runner.sandbox import docker as docker_module
from sia_runner.sandbox import driver, landlock
from sia_runner.sandbox import process as process_module
from sia_runner.sandbox.bubblewrap import Bubblewrap
from sia_runner.sandbox.docker import Docker
from sia_runner.sandbox.process import Process
from sia_runner.sandbox.protocol import Ending, Sandbox, SandboxError, SandboxJob, SandboxLimits, SandboxResult

IMAGE = os.environ.get("SIA_IMAGE", "sia-runner-sandbox")  # of the engine that tests/engines/docker.sh brings up
BACKENDS = {"bubblewrap": Bubblewrap, "process": Process, "docker": partial(Docker, IMAGE)}
CLASSES = {"bubblewrap": "Bubblewrap", "process": "Process", "docker": "Docker"}
# Nobody's number, and another one for each process of a parallel test run: processes are counted for a user.
USER = 23456 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_SESSION = secrets.token_hex(4)  # tells what these tests started from what others did
ENTRY = f"target_agent_{_SESSION}.py"
_COPIED = ("sklearn", "scikit_learn", "scipy", "numpy", "joblib", "threadpoolctl", "narwhals", "cloudpickle",
           "docker", "requests", "urllib3", "certifi", "idna", "charset_normalizer")  # fmt: skip
_PACKAGES = Path(__file__).resolve().parents[2]
_REMOTE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sia_runner.records import GatewayAddress
from sia_runner.sandbox import process
from sia_runner.sandbox.{name} import {kind}
sandbox = {kind}(*{arguments!r})
from sia_runner.sandbox.protocol import SandboxJob, SandboxLimits
if {way!r}:
    process._relay_route = lambda: {way!r}
wanted = json.load(sys.stdin)
if wanted is None:
    sandbox.check(); answer = sandbox.gaps()
else:
    limits = SandboxLimits(**wanted.pop("limits")); entry = wanted.pop("entry"); env = wanted.pop("env")
    address = wanted.pop("gateway", None)
    address = GatewayAddress(Path(address["socket"]), address["env"]) if address else None
    paths = {{k: Path(v) for k, v in wanted.items()}}
    ended = sandbox.run(SandboxJob(entry=entry, limits=limits, env=env, gateway=address, **paths))
    answer = {{name: getattr(ended, name) for name in ended.__slots__}}
print(json.dumps(answer))
"""


@dataclass
class Ran:
    """One attack and what came of it."""

    ended: SandboxResult
    log: str
    home: Path  # holds harness, data, work, and what a harness must not reach

    @property
    def work(self) -> Path:
        return self.home / "work"


@dataclass
class Box:
    """A sandbox as one user starts it.

    `command` starts a Python of that user; empty: this process is that user. `way`: how its harness shall reach the
    gateway, where that is not to be what the machine offers.
    """

    name: str
    who: str
    home: Path
    command: list[str]
    uid: int
    way: str = ""

    @property
    def sandbox(self) -> Sandbox:
        return BACKENDS[self.name]()

    def gaps(self) -> list[str]:
        return self._remote(None) if self.command else self.sandbox.gaps()

    def job(self, source: str, **limits: float) -> SandboxJob:
        """A fresh folder with this program as its harness."""
        home = Path(tempfile.mkdtemp(dir=self.home))
        home.chmod(0o755)
        for name in ("harness", "data", "work"):
            (home / name).mkdir()
        (home / "harness" / ENTRY).write_text(textwrap.dedent(source))
        (home / "data" / "questions.csv").write_text("id,text\n1,what?\n")
        for path in (home, *home.rglob("*")):
            os.chown(path, self.uid, self.uid)
        bounds = replace(SandboxLimits(seconds=20, memory_mb=1024, disk_mb=64, file_mb=32), **limits)
        return SandboxJob(home / "harness", ENTRY, home / "data", home / "work", home / "stdout.log", bounds)

    def run(self, source: str, **limits: float) -> Ran:
        return self.run_job(self.job(source, **limits))

    def run_job(self, job: SandboxJob) -> Ran:
        with self._as_if_it_offered(self.way):
            ended = self._run_remotely(job) if self.command else self.sandbox.run(job)
        log = job.log.read_text() if job.log.exists() else ""
        return Ran(ended, log, job.work.parent)

    @contextmanager
    def _as_if_it_offered(self, way: str) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            if way:
                patch.setattr(process_module, "_relay_route", lambda: way)
            yield

    @staticmethod
    def to_json(job: SandboxJob) -> dict:
        """Return the standard input of `remote_command`."""
        paths = {name: os.fspath(getattr(job, name)) for name in ("harness", "data", "work", "log")}
        address = {"socket": os.fspath(job.gateway.socket), "env": dict(job.gateway.env)} if job.gateway else None
        return {**paths, "entry": job.entry, "limits": asdict(job.limits), "env": dict(job.env), "gateway": address}

    def _run_remotely(self, job: SandboxJob) -> SandboxResult:
        answer = self._remote(self.to_json(job))
        return SandboxResult(**{**answer, "ending": Ending(answer["ending"])})

    def _remote(self, wanted: object) -> dict:
        done = subprocess.run(
            self.remote_command(), input=json.dumps(wanted), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def remote_command(self) -> list[str]:
        """A program of this user that runs the job it reads from standard input."""
        arguments = (IMAGE,) if self.name == "docker" else ()
        code = _REMOTE.format(name=self.name, kind=CLASSES[self.name], arguments=arguments, way=self.way)
        return [*(self.command or [sys.executable]), "-c", code, os.fspath(self.packages)]

    @property
    def packages(self) -> Path:
        return self.home / "packages" if self.command else _PACKAGES

    def stops(self, what: str) -> bool:
        """Does this sandbox claim to? A gap that it names is not tested as if it were closed."""
        return not any(what in gap for gap in self.gaps())


@pytest.fixture(scope="session")
def public_home() -> Iterator[Path]:
    """A folder that every user of this machine can reach; pytest's own are private."""
    home = Path(tempfile.mkdtemp(prefix=f"sia-tests-{_SESSION}-"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def public_python(public_home: Path) -> str:
    """A virtual environment as this one that every user can run, with the package beside it."""
    base, venv = public_home / "python", public_home / "venv"
    library = Path("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}"
    (base / "bin").mkdir(parents=True)
    program = base / "bin" / "python3"
    # where it looks for its shared library, if it has one, is written in the program
    old, new = f"{sys.base_prefix}/lib\0".encode(), b"$ORIGIN/../lib\0"
    code = Path(os.path.realpath(sys.executable)).read_bytes()
    program.write_bytes(code.replace(old, new.ljust(len(old), b"\0")) if len(new) <= len(old) else code)
    program.chmod(0o755)
    for shared in Path(sys.base_prefix, "lib").glob("libpython*"):
        _link(os.fspath(shared), os.fspath(base / "lib" / shared.name))
    ignored = shutil.ignore_patterns("site-packages", "test", "idlelib", "tkinter")
    shutil.copytree(sysconfig.get_path("stdlib"), base / library, copy_function=_link, ignore=ignored)
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if package.name.startswith(_COPIED):
            ignored = shutil.ignore_patterns("tests", "datasets.*", "include")
            target = venv / library / "site-packages" / package.name
            shutil.copytree(package, target, copy_function=_link, ignore=ignored) if package.is_dir() else _link(
                os.fspath(package), os.fspath(target)
            )
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to(program)
    (venv / "pyvenv.cfg").write_text(f"home = {base / 'bin'}\ninclude-system-site-packages = false\n")
    shutil.copytree(_PACKAGES / "sia_runner", public_home / "packages" / "sia_runner")
    return os.fspath(venv / "bin" / "python")


def _link(source: str, target: str) -> None:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


VARIANTS = ("bubblewrap-root", "bubblewrap-user", "process-root", "process-stranger", "process-user", "docker-root",
            "docker-user")  # fmt: skip


@pytest.fixture(params=VARIANTS, scope="session")
def box(request: pytest.FixtureRequest, public_home: Path) -> Box:
    """`root`: by root. `user`: by an ordinary user. `stranger`: by root, whose Python other users can read."""
    return make_box(request, request.param, public_home)


@pytest.fixture(params=[v for v in VARIANTS if v.startswith("bubblewrap")], scope="session")
def bubblewrap(request: pytest.FixtureRequest, public_home: Path) -> Box:
    return make_box(request, request.param, public_home)


@pytest.fixture(params=[v for v in VARIANTS if v.startswith("process")], scope="session")
def process(request: pytest.FixtureRequest, public_home: Path) -> Box:
    return make_box(request, request.param, public_home)


# Where no network namespace can be made, `process` takes another way.
OPEN = (*VARIANTS, "process-root-loopback", "process-stranger-loopback", "process-user-loopback")


@pytest.fixture(params=OPEN, scope="session")
def open_box(request: pytest.FixtureRequest, public_home: Path) -> Box:
    """Each sandbox, by each way that leads from it to the gateway."""
    return make_box(request, request.param, public_home)


@pytest.fixture(params=["bubblewrap", "process", "process-loopback", "docker"], scope="session")
def own_open_box(request: pytest.FixtureRequest, public_home: Path) -> Box:
    """The same as whoever runs the tests."""
    name, _, way = request.param.partition("-")
    who = "root" if os.geteuid() == 0 else "user"
    return make_box(request, f"{name}-{who}-{way}".rstrip("-"), public_home)


@pytest.fixture(params=["bubblewrap", "process", "docker"], scope="session")
def own_box(request: pytest.FixtureRequest, public_home: Path) -> Box:
    """Each backend as whoever runs the tests."""
    return make_box(request, f"{request.param}-{'root' if os.geteuid() == 0 else 'user'}", public_home)


def make_box(request: pytest.FixtureRequest, variant: str, home: Path) -> Box:
    name, who, way = (*variant.split("-"), "")[:3]
    root = os.geteuid() == 0
    if who != "user" and not root:
        pytest.skip(f"{variant}: needs root, and these tests run as uid {os.geteuid()}")
    command: list[str] = []
    if root and who != "root":
        command = [request.getfixturevalue("public_python")]
        if who == "user":
            command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", _groups(name), *command]
    if way == "loopback" and landlock.landlock_abi() < 4:
        pytest.skip(f"NOT TESTED: {variant}: this kernel's Landlock cannot confine TCP")
    box = Box(name, who, home, command, USER if root and who == "user" else os.geteuid(), way)
    try:
        box.sandbox.check()
    except SandboxError as error:
        pytest.skip(f"NOT TESTED: {variant}: {error}")
    return box


def _groups(name: str) -> str:
    """Who may use a container engine is in the group of its socket."""
    socket = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    return f"--groups={socket.stat().st_gid}" if name == "docker" and socket.exists() else "--clear-groups"


@pytest.fixture
def secret() -> str:
    return f"gold-{secrets.token_hex(8)}"


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    """No process of any test outlives it: harness, launcher, bubblewrap or supervisor."""
    yield
    assert not sandbox_processes()


def sandbox_processes() -> list[str]:
    driver._supervisors.dismiss()  # the one that stands by for a next run is not left behind, it waits
    return _processes()


def _processes() -> list[str]:
    """List the running processes of these tests' sandboxes (others on this machine may run some too)."""
    lines = []
    below = {process.pid for process in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or [])
        ours = process.pid in below and ("sandbox" in words or "bwrap" in words)
        if (ours or ENTRY in words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            lines.append(f"{process.pid}: {words[:200]}")
    return lines + _containers()


def _containers() -> list[str]:
    """List the running containers of these tests, where an engine was used; it may take a moment to see their end."""
    if not docker_module._find.cache_info().currsize:
        return []
    end = time.monotonic() + 10
    while True:
        running = docker_module._engine(IMAGE).api.containers(filters={"label": docker_module._LABEL})
        ours = [
            container["Id"]
            for container in running
            if f"/sia-tests-{_SESSION}-" in container["Labels"][docker_module._LABEL]
        ]
        if not ours or time.monotonic() > end:
            return ours
        time.sleep(0.05)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
