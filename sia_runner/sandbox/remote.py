"""Sandboxes on other machines: `Remote` speaks with the far end, `Ssh` brings it to a host by the system's OpenSSH.

Each job is one connection. Over it go a copy of the few modules that the far end needs (`host`), the job, the files of
harness, data and work, and back come log, work and result. The connection also is the job's life: when one end goes
away, the other one ends what it has. What comes back is hostile: sizes are bounded, paths and numbers checked, and
work/ changes only once all of it has arrived.
"""

import contextlib
import io
import math
import os
import re
import secrets
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from sia_runner.sandbox import driver
from sia_runner.sandbox.host import PREFIX, SOCKET_PREFIX, HostDescription
from sia_runner.sandbox.protocol import Ending, Sandbox, SandboxError, SandboxJob, SandboxLimits, SandboxResult
from sia_runner.sandbox.stream import (
    HEARTBEAT,
    MAX_SILENCE,
    Frames,
    LinkLost,
    StreamFault,
    parse_json,
    receive_tree,
    send_tree,
)
from sia_runner.sandbox.supervisor import BoundedOutput
from sia_runner.text import one_line

_PACKAGE = Path(__file__).resolve().parents[1]
_MODULES = ("__init__.py", "errors.py", "records.py", "system.py", "store/__init__.py", "store/run_directory.py")
_START = 60.0  # seconds until the far end answers
_CHECK = 120.0  # for its trial harness
_GRACE = 60.0  # beyond a job's own limit
_DOWNLOAD = 1800.0  # for log and work of a job
_CLEANUP = 10.0  # for the far end to clean up, once it was told to
_STDERR_BYTES = 4096  # of the command's standard error that are kept
_PLAIN_PATH = re.compile(r"[\w/.-]+")  # that OpenSSH takes as it stands
# Python code that needs nothing on the host; -I keeps out what lies in its current folder and home.
_FAR_END = f"""
import io,os,sys,tarfile,tempfile
def take(n):
    b=b""
    while len(b)<n:
        m=os.read(0,n-len(b))
        if not m: sys.exit(1)
        b+=m
    return b
if sys.version_info<(3,11): sys.exit("Python 3.11 or newer is needed, this is "+sys.version.split()[0])
os.umask(0o022)
home=tempfile.mkdtemp(prefix="{PREFIX}",dir=sys.argv[1])
tarfile.open(fileobj=io.BytesIO(take(int.from_bytes(take(4),"big")))).extractall(home+"/ours")
sys.path.insert(0,home+"/ours")
from sia_runner.sandbox.host import main
main(home)
"""


class _FarEndRefused(Exception):
    """The far end says why it cannot do what it was asked."""


class Remote(Sandbox):
    """A sandbox on another machine. A subclass says by `command` how a program is started there.

    `python` is there a Python 3.11 or newer, `folder` holds the folders of jobs, and `backend` is the sandbox that
    confines the harness there: bubblewrap, process, or auto for the stronger one that works.
    """

    name, is_remote = "remote", True
    where = ""  # how messages name the machine

    def __init__(self, python: str, folder: str, backend: str) -> None:
        self._python, self._folder, self._backend = python, folder, backend
        self._descriptions: dict[bool, HostDescription] = {}

    @abstractmethod
    def command(self, program: list[str], sockets: tuple[str, str] | None) -> list[str]:
        """Return a command of this machine whose standard streams are those of `program` on the other one.

        `sockets`: a path there that shall lead to the Unix socket at a path here, for the user of `program` alone.
        """

    def explain(self, stderr: str, code: int | None) -> str:
        """Return in one line why the command ended, from the end of its standard error."""
        return stderr or f"the command ended with code {code}"

    def check(self, *, with_gateway: bool = False) -> None:
        """Raise SandboxError when this backend cannot work there; `with_gateway`: for harnesses that call models."""
        self._describe(with_gateway)
        driver.try_out(self, with_gateway)

    def gaps(self, *, with_gateway: bool = False) -> list[str]:
        """List what this backend does not protect, one sentence each: what the host says, and what it adds itself."""
        return [
            f"Harnesses and their questions go to {self.where}: whoever is root there reads them and writes results.",
            *(f"There: {gap}" for gap in self._describe(with_gateway).gaps),
        ]

    def versions(self) -> dict[str, str]:
        """Return the host, and its system, Python and sandbox, as it states them."""
        host = self._describe(with_gateway=next(iter(self._descriptions), False))
        return {"host": self.where, "system": host.system, "python": host.python, "backend": host.backend}

    def run(self, job: SandboxJob) -> SandboxResult:
        """Run one job there to its end or to a limit."""
        try:
            driver.check_job(job)
            if job.python:
                raise SandboxError(
                    f"sandbox={self.name} runs the Python of the host, not an environment of requirements.txt; "
                    "install these packages there, and name that Python in sandbox.python"
                )
            return self._run(job)
        except SandboxError as error:
            return SandboxResult(Ending.NOT_STARTED, detail=str(error))

    def _describe(self, with_gateway: bool) -> HostDescription:
        if with_gateway not in self._descriptions:
            with self._far_end(None) as frames:
                frames.send_json(b"J", {"backend": self._backend, "job": None, "gateway": with_gateway})
                with _heartbeats(frames):
                    self._descriptions[with_gateway] = _description(_receiver(frames, _CHECK)())
        return self._descriptions[with_gateway]

    def _run(self, job: SandboxJob) -> SandboxResult:
        plan: dict[str, Any] = {"entry": job.entry, "limits": asdict(job.limits), "env": dict(job.env), "gateway": None}
        with contextlib.ExitStack() as stack:
            sockets = None
            if job.gateway:
                there = f"{self._folder}/{SOCKET_PREFIX}{secrets.token_hex(16)}"
                sockets = there, stack.enter_context(_plain_link(job.gateway.socket))
                plan["gateway"] = {"socket": there, "env": dict(job.gateway.env)}
            scratch = stack.enter_context(_folder_beside(job.work))
            frames = stack.enter_context(self._far_end(sockets))
            frames.send_json(b"J", {"backend": self._backend, "job": plan})
            for folder in (job.harness, job.data, job.work):
                send_tree(frames, os.fspath(folder))
            with _heartbeats(frames):
                log, result = _receive_job(frames, scratch, job.limits)
            if result.ending is Ending.INTERRUPTED:
                raise SandboxError(f"{self.where} stopped the harness: {result.detail}")
            log.save(os.fspath(job.log))
            _replace_content(job.work, scratch)
            return result

    @contextlib.contextmanager
    def _far_end(self, sockets: tuple[str, str] | None) -> Iterator[Frames]:
        """Start the far end; it ends with the context. Raises SandboxError for whatever goes wrong between the two."""
        command = self.command([self._python, "-I", "-c", _FAR_END, self._folder], sockets)
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the runner to handle
        )
        assert process.stdin and process.stdout and process.stderr  # noqa: S101 (for the type checker)
        stderr = BoundedOutput(_STDERR_BYTES)
        drain = threading.Thread(target=_drain, args=(process.stderr.fileno(), stderr), daemon=True)
        drain.start()
        frames = Frames(process.stdout.fileno(), process.stdin.fileno())
        began = lost = False
        try:
            frames.send_raw(_modules())
            frames.wait_for_begin(_START)
            began = True
            yield frames
        except (LinkLost, StreamFault) as trouble:
            lost = True
            if began and isinstance(trouble, LinkLost):
                _raise_refusal(frames, self.where)  # it may have said why before it went
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            drain.join(1)
            lines = [one_line(line, 300) for line in stderr.text().splitlines() if line.strip()]
            why = str(trouble)
            if isinstance(trouble, LinkLost) and (not began or process.returncode):
                why = self.explain("\n".join(lines[-20:]), process.returncode)
                why = f"lost: {why}" if began else why
            raise SandboxError(f"{self.where}: {why}") from None
        except _FarEndRefused as refused:
            raise SandboxError(f"{self.where}: {refused}") from None
        finally:
            _end(process, frames, heard=began and not lost)
            drain.join(1)
            process.stdout.close()
            process.stderr.close()


def _raise_refusal(frames: Frames, where: str) -> None:
    """Raise SandboxError where the far end sent a reason before it ended."""
    receive = _receiver(frames, 1)
    try:
        while True:
            receive()
    except _FarEndRefused as refused:
        raise SandboxError(f"{where}: {refused}") from None
    except (LinkLost, StreamFault):
        pass


def _end(process: "subprocess.Popen[bytes]", frames: Frames, *, heard: bool) -> None:
    """Tell the far end by the end of its input that nothing more is wanted; wait for it to clean up where it is heard.

    The command is not waited for: ssh does not end before each connection through a forwarded socket has.
    """
    assert process.stdin  # noqa: S101 (for the type checker)
    with contextlib.suppress(OSError):
        process.stdin.close()
    if heard:
        receive = _receiver(frames, _CLEANUP)
        with contextlib.suppress(LinkLost, StreamFault, _FarEndRefused):
            while receive()[0] != b"B":
                pass
    process.kill()
    process.wait()


def _drain(fd: int, output: BoundedOutput) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(fd, 4096):
            output.add(data)


@contextlib.contextmanager
def _heartbeats(frames: Frames) -> Iterator[None]:
    """Tell the far end, while the context lasts, that the runner lives."""
    over = threading.Event()

    def beat() -> None:
        with contextlib.suppress(LinkLost):
            while not over.wait(HEARTBEAT):
                frames.send(b"K")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1)


def _receiver(frames: Frames, seconds: float) -> Callable[[], tuple[bytes, bytes]]:
    """Return a function for the next frame that is no sign of life; `seconds` bound all of its calls together."""
    end = time.monotonic() + seconds

    def receive() -> tuple[bytes, bytes]:
        while (rest := end - time.monotonic()) > 0:
            kind, content = frames.receive(min(MAX_SILENCE, rest))
            if kind == b"E":
                raise _FarEndRefused(one_line(content.decode(errors="replace"), 500) or "no reason")
            if kind != b"K":
                return kind, content
        raise LinkLost(f"no answer within {seconds:g} s")

    return receive


def _receive_job(frames: Frames, folder: Path, limits: SandboxLimits) -> tuple[BoundedOutput, SandboxResult]:
    """Return log and result of a job, and write its work into the empty `folder`."""
    log = BoundedOutput(2 * (limits.output_kb << 10) + 4096)  # of what was shortened there already
    first = [_receiver(frames, limits.seconds + _GRACE)()]
    receive = _receiver(frames, _DOWNLOAD)
    while first[0][0] == b"L":
        log.add(first[0][1])
        first[0] = receive()
    receive_tree(lambda: first.pop() if first else receive(), os.fspath(folder), limits.disk_mb << 20)
    return log, _result(receive())


def _result(frame: tuple[bytes, bytes]) -> SandboxResult:
    """Return a result all of whose values have been checked. Raises StreamFault."""
    kind, content = frame
    values: Any = parse_json(content) if kind == b"J" else None
    try:
        code, detail = values["exit_code"], values["detail"]
        numbers = [values[name] for name in ("seconds", "cpu_seconds", "peak_mb", "output_bytes")]
        plain = isinstance(detail, str) and (code is None or (type(code) is int and 0 <= code <= 255))
        if len(values) != 7 or not plain or not all(_is_number(number) for number in numbers):
            raise ValueError
        seconds, cpu_seconds, peak, size = numbers
        return SandboxResult(
            Ending(values["ending"]), code, float(seconds), float(cpu_seconds), float(peak), int(size),
            one_line(detail, 1000),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise StreamFault("a result that is none") from None


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e15 and math.isfinite(value)  # type: ignore[operator]


def _description(frame: tuple[bytes, bytes]) -> HostDescription:
    """Return a description whose texts are bounded lines. Raises StreamFault."""
    kind, content = frame
    values = parse_json(content) if kind == b"J" else None
    if not isinstance(values, dict) or not isinstance(values.get("gaps"), list):
        raise StreamFault("a description that is none")
    backend, python, system = (one_line(str(values.get(name)), 100) for name in ("backend", "python", "system"))
    return HostDescription(backend, python, system, [one_line(str(gap), 500) for gap in values["gaps"][:50]])


@contextlib.contextmanager
def _folder_beside(work: Path) -> Iterator[Path]:
    """Yield an empty folder on the file system of `work`; what an earlier runner left there is removed."""
    folder = work.parent / f".{work.name}.incoming"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace_content(work: Path, source: Path) -> None:
    for old in work.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
    for new in source.iterdir():
        new.rename(work / new.name)


@contextlib.contextmanager
def _plain_link(socket: Path) -> Iterator[str]:
    """Yield a link to a socket whose path holds no character with a meaning for OpenSSH."""
    with tempfile.TemporaryDirectory(prefix="sia-link-") as folder:
        link = f"{folder}/g"
        if not _PLAIN_PATH.fullmatch(link):
            raise SandboxError(f"the folder for temporary files, {folder}, must be of letters, digits and /._- only")
        os.symlink(socket.resolve(), link)
        yield link


@lru_cache(maxsize=1)
def _modules() -> bytes:
    """Return the modules that the far end needs, as a tar file after its length."""
    paths = [_PACKAGE / name for name in _MODULES]
    paths += [*(_PACKAGE / "sandbox").glob("*.py"), *(_PACKAGE / "sandbox" / "etc").iterdir()]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path in sorted(paths):
            member = tarfile.TarInfo(f"sia_runner/{path.relative_to(_PACKAGE).as_posix()}")
            member.size, member.mode = path.stat().st_size, 0o644
            tar.addfile(member, io.BytesIO(path.read_bytes()))
    return len(out.getvalue()).to_bytes(4, "big") + out.getvalue()


class Ssh(Remote):
    """The `ssh` sandbox: harnesses run on a host that the system's OpenSSH client reaches without a question."""

    name = "ssh"

    def __init__(
        self, host: str, user: str, port: int, identity: str | None, known_hosts: str, python: str, folder: str,
        backend: str,
    ) -> None:  # fmt: skip
        super().__init__(python, folder, backend)
        self._host, self._user, self._port = host, user, port
        self._identity = os.fspath(Path(identity).expanduser().absolute()) if identity else ""
        self._known_hosts = os.fspath(Path(known_hosts).expanduser().absolute())
        self.where = f"{user}@{host}" + ("" if port == 22 else f":{port}")

    def check(self, *, with_gateway: bool = False) -> None:
        """Raise SandboxError when this backend cannot work there."""
        for name, path in (("identity", self._identity), ("known_hosts", self._known_hosts)):
            if path and not os.path.isfile(path):
                raise SandboxError(f"sandbox.{name}={path}: no such file")
        super().check(with_gateway=with_gateway)

    def command(self, program: list[str], sockets: tuple[str, str] | None) -> list[str]:
        """Return the command line of ssh; nobody's configuration and no agent of this machine takes part in it."""
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f'"{self._known_hosts}"',
            "GlobalKnownHostsFile": "none",
            "UpdateHostKeys": "no",
            "ConnectTimeout": 15,
            "ServerAliveInterval": 5,
            "ServerAliveCountMax": 3,
            "ExitOnForwardFailure": "yes",
            "ForwardAgent": "no",
            "ForwardX11": "no",
            "PermitLocalCommand": "no",
            "ControlPath": "none",
            "EscapeChar": "none",
            "LogLevel": "ERROR",
        }
        if self._identity:
            options |= {"IdentitiesOnly": "yes", "IdentityFile": f'"{self._identity}"', "IdentityAgent": "none"}
        missing = "the OpenSSH client is not installed (its program ssh is not on PATH)"
        words = [driver.installed_program("ssh", missing), "-T", "-F", "none"]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        if sockets:
            words += ["-R", ":".join(sockets)]
        words += ["-p", str(self._port), "-l", self._user, "--", self._host]
        return [*words, f"exec {shlex.join(program)}"]

    def explain(self, stderr: str, code: int | None) -> str:
        """Return in one line why ssh ended, with what to do where that is known."""
        last = stderr.splitlines()[-1] if stderr else f"ssh ended with code {code}"
        if "Host key verification failed" in stderr:
            return f"its host key is not the one in sandbox.known_hosts={self._known_hosts}; ask who runs the host"
        if code == 127:
            return f"sandbox.python={self._python} is not there ({last})"
        if code == 255 and "forwarding failed" in stderr:
            return f"its ssh server forwards no Unix socket (AllowStreamLocalForwarding) or finds no {self._folder}"
        return last
