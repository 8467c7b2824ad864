"""The far end of a sandbox on another machine: it receives a job's files, runs it in a sandbox and returns its work.

`remote` starts it on the host with a copy of what it imports, standard library only, so that the host needs Python and
bubblewrap and no installation. It lives as long as it hears the runner: when standard input ends, or stays silent for
`MAX_SILENCE` seconds, it ends the harness, removes its folder and exits. If it is killed itself, the sandbox's
supervisor ends the harness, and the next job removes the folder.
"""

import contextlib
import fcntl
import os
import platform
import signal
import socket
import subprocess
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sia_runner.records import GatewayAddress
from sia_runner.sandbox.protocol import Ending, Sandbox, SandboxError, SandboxJob, SandboxLimits, SandboxResult
from sia_runner.sandbox.stream import (
    BEGIN,
    HEARTBEAT,
    MAX_SILENCE,
    Frames,
    LinkLost,
    StreamFault,
    TreeTooLarge,
    parse_json,
    receive_tree,
    send_tree,
)

PREFIX = "sia-job-"  # of the folders of jobs
SOCKET_PREFIX = "sia-gateway-"  # of forwarded sockets, until a job has taken its own
_STALE_AGE = 600.0  # seconds after which a folder without a lock belongs to nobody
_CLEANUP = 120.0  # seconds at most
_MAX_UPLOAD = 1 << 40  # bytes: the runner is trusted here, and the disk sets the limit
BACKENDS = ("bubblewrap", "process", "auto")


@dataclass(frozen=True, slots=True)
class HostDescription:
    """A host as it describes itself to the runner."""

    backend: str  # the sandbox that confines harnesses there
    python: str
    system: str
    gaps: list[str]  # one sentence each

    @staticmethod
    def of(sandbox: Sandbox, *, with_gateway: bool) -> "HostDescription":
        """Return the description of this machine."""
        system = f"{platform.system()} {platform.release()} {platform.machine()}"
        return HostDescription(sandbox.name, platform.python_version(), system, sandbox.gaps(with_gateway=with_gateway))


class _Stopped(BaseException):
    """Ends the job: the runner has gone, or a signal came."""


def main(home: str) -> None:
    """Serve the one request of the runner at the other end of the standard streams, in the new folder `home`."""
    frames, over = Frames(0, 1), False

    def stop(*_: object) -> None:
        nonlocal over
        if not over:  # once: cleaning up is not interrupted
            over = True
            raise _Stopped

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        _answer(frames, home)
        over = True
    except (LinkLost, _Stopped):
        over = True
    finally:
        _remove(home)
    with contextlib.suppress(LinkLost):
        frames.send(b"B")


def _answer(frames: Frames, home: str) -> None:
    try:
        _lock(home)
        _remove_stale(os.path.dirname(home))
        frames.send_raw(BEGIN)
        _serve(frames, home)
    except (SandboxError, StreamFault, OSError) as error:
        frames.send(b"E", " ".join(str(error).split()).encode()[:2000])


def _remove(folder: str) -> None:
    subprocess.run(["/bin/rm", "-rf", "--", folder], check=False, stderr=subprocess.DEVNULL)  # knows no depth


def _lock(home: str) -> None:
    """Lock the folder until this process ends; the lock's name appears once it is held."""
    lock = os.open(f"{home}/locking", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(f"{home}/locking", f"{home}/lock")


def _remove_stale(folder: str) -> None:
    """Remove what jobs of this user left whose far end was killed or whose machine went down."""
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            info = entry.stat(follow_symlinks=False)
            if info.st_uid != os.geteuid():
                continue
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                if _is_stale(entry.path, info.st_mtime):
                    _remove(entry.path)
            elif entry.name.startswith(SOCKET_PREFIX):
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(1)
                    try:
                        probe.connect(entry.path)
                    except ConnectionRefusedError:
                        os.unlink(entry.path)


def _is_stale(home: str, changed: float) -> bool:
    try:
        lock = os.open(f"{home}/lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - changed > _STALE_AGE
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _serve(frames: Frames, home: str) -> None:
    request = parse_json(_receive(frames)[1])
    sandbox = _backend(request["backend"])
    threading.Thread(target=_send_heartbeats, args=(frames,), daemon=True).start()
    if request["job"] is None:
        _watch_runner(frames)
        sandbox.check(with_gateway=request["gateway"])
        frames.send_json(b"J", asdict(HostDescription.of(sandbox, with_gateway=request["gateway"])))
        return
    if sandbox.name == "process" and os.geteuid() == 0:
        os.chmod(home, 0o711)  # noqa: S103 (the harness, another user, has to pass; it cannot list)
    for name in ("harness", "data", "work"):
        os.mkdir(f"{home}/{name}")
        receive_tree(lambda: _receive(frames), f"{home}/{name}", _MAX_UPLOAD)
    _watch_runner(frames)
    job = _job(request["job"], home)
    result = sandbox.run(job)
    result = _send_back(frames, job, result)
    frames.send_json(b"J", {name: getattr(result, name) for name in SandboxResult.__slots__})


def _receive(frames: Frames) -> tuple[bytes, bytes]:
    while True:
        kind, content = frames.receive()
        if kind != b"K":
            return kind, content


def _send_heartbeats(frames: Frames) -> None:
    with contextlib.suppress(LinkLost):
        while True:
            frames.send(b"K")
            time.sleep(HEARTBEAT)


def _watch_runner(frames: Frames) -> None:
    """Interrupt the main thread once the runner is not heard any more; from here on only signs of life come."""

    def watch() -> None:
        with contextlib.suppress(LinkLost, StreamFault):
            while frames.receive(MAX_SILENCE)[0] == b"K":
                pass
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(_CLEANUP)
        os._exit(1)  # the supervisor sees that, and the next job removes the folder

    threading.Thread(target=watch, daemon=True).start()


def _backend(name: str) -> Sandbox:
    if name == "process":
        from sia_runner.sandbox.process import Process

        return Process()
    if name == "auto":
        from sia_runner.sandbox.auto import auto

        return auto()
    from sia_runner.sandbox.bubblewrap import Bubblewrap

    return Bubblewrap()


def _job(plan: dict[str, Any], home: str) -> SandboxJob:
    gateway = None
    if plan["gateway"]:
        # the server made it for this user alone; inside this folder only the harness's relay reaches it
        path = Path(home, "gateway")
        os.rename(plan["gateway"]["socket"], path)
        path.chmod(0o666)
        gateway = GatewayAddress(path, plan["gateway"]["env"])
    return SandboxJob(
        harness=Path(home, "harness"),
        entry=plan["entry"],
        data=Path(home, "data"),
        work=Path(home, "work"),
        log=Path(home, "log"),
        limits=SandboxLimits(**plan["limits"]),
        env=plan["env"],
        gateway=gateway,
    )


def _send_back(frames: Frames, job: SandboxJob, result: SandboxResult) -> SandboxResult:
    """Send log and work; return the result, changed where work/ is too large to be sent."""
    with contextlib.suppress(FileNotFoundError), job.log.open("rb") as log:
        while data := log.read(1 << 16):
            frames.send(b"L", data)
    limit = job.limits.disk_mb << 20
    try:
        send_tree(frames, os.fspath(job.work), limit, owner=job.work.stat().st_uid)
    except TreeTooLarge as error:  # files with holes, and several names of one file
        frames.send(b".")
        return replace(result, ending=Ending.DISK_FULL, detail=str(error))
    return result
