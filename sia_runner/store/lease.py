"""A lease with a heartbeat gives a run directory one writer, also across nodes whose file system knows no flock.

It is stale if its process ended (same host and boot) or if nobody touched it for `STALE_AFTER` seconds by the file
system's own clock, so that nodes whose clocks differ agree.
"""

import json
import os
import socket
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_runner.records import Json
from sia_runner.store.run_directory import RunDirectoryError, write_text


def process_identity() -> Json:
    """Return what distinguishes this process from any other, also from a later one with the same PID."""
    pid, job = os.getpid(), os.environ.get("SLURM_JOB_ID")
    return {**process_namespace(), "pid": pid, "started": process_start_time(pid), "job": job}


def process_ended(process: Mapping[str, Any], file: Path, after: float) -> bool:
    """Return True if `process` ended or, on another machine, did not touch `file` for `after` seconds."""
    if all(process.get(key) == value for key, value in process_namespace().items()):
        return process_start_time(int(process["pid"])) != process["started"]
    return _seconds_since_touch(file) > after


def _seconds_since_touch(file: Path) -> float:
    """Ask the file system's own clock; infinity if there is no such file."""
    probe = file.with_name(f".clock.{uuid.uuid4().hex}")
    probe.touch()
    try:
        with file.open("rb") as stream:  # a network file system caches attributes; opening the file refreshes them
            return probe.stat().st_mtime - os.fstat(stream.fileno()).st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink()


def process_namespace() -> Json:
    """Return the host, the boot id of its kernel and the PID namespace (a container has its own)."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"host": socket.gethostname(), "boot": boot, "space": os.readlink("/proc/self/ns/pid")}  # noqa: PTH115


def process_start_time(pid: int | str) -> str:
    """Return the start time of a process in clock ticks; empty if it ended, also while it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


HEARTBEAT = 5.0  # seconds between touches
STALE_AFTER = 60.0  # seconds without a touch


class LeaseHeldError(RunDirectoryError):
    """Another process holds the lease of this run directory."""


class RunLease:
    """A context manager that holds the lease of a run directory; raises Held, naming the holder, if another has it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lease.json"
        self._identity = {"nonce": uuid.uuid4().hex, **process_identity()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, daemon=True, name="lease")

    def __enter__(self) -> "RunLease":
        if not self._create(self._path):
            self._take_over()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if _read_holder(self._path).get("nonce") == self._identity["nonce"]:
            self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raise Held if the lease was lost, say because this node slept for minutes; call it before a result counts."""
        holder = _read_holder(self._path)
        if holder.get("nonce") != self._identity["nonce"]:
            lost = f"this process lost the run to {_holder_name(holder)}; nothing was overwritten"
            raise LeaseHeldError(f"{self._path.parent}: {lost}")

    def _create(self, path: Path) -> bool:
        """Create the file atomically (written aside, then linked); return False if it exists."""
        aside = path.with_name(f".{path.name}.{self._identity['nonce']}")
        aside.write_text(json.dumps(self._identity))
        try:
            os.link(aside, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links: a reader may see the file before its text
            try:
                with path.open("x") as stream:
                    stream.write(json.dumps(self._identity))
            except FileExistsError:
                return False
        finally:
            aside.unlink()
        return True

    def _take_over(self) -> None:
        holder = _read_holder(self._path)
        if not holder:  # released since we tried to create it
            if self._create(self._path):
                return
            holder = _read_holder(self._path)
        if not process_ended(holder, self._path, STALE_AFTER):
            advice = "wait for it or stop it first"
            raise LeaseHeldError(f"{self._path.parent} is being written by {_holder_name(holder)}; {advice}")
        # The claim file lets one contender at a time take over this lease; it checks again before it replaces the file.
        claim = self._path.with_name(f".lease.claim.{holder.get('nonce', 'none')}")
        claimed = self._create(claim)
        if not claimed and _seconds_since_touch(claim) > STALE_AFTER:  # its process died over it
            claim.unlink(missing_ok=True)
            claimed = self._create(claim)
        if not claimed:
            raise LeaseHeldError(f"{self._path.parent} is being taken over by another process; try again in a moment")
        try:
            current = _read_holder(self._path)
            if current.get("nonce") != holder.get("nonce"):
                raise LeaseHeldError(f"{self._path.parent} was taken over by {_holder_name(current)}")
            write_text(self._path, json.dumps(self._identity))
        finally:
            claim.unlink(missing_ok=True)

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            if _read_holder(self._path).get("nonce") != self._identity["nonce"]:
                return
            os.utime(self._path)


def lease_is_held(folder: Path) -> bool:
    """Return True while a living process holds the lease of a folder."""
    holder = _read_holder(path := folder / "lease.json")
    return bool(holder) and not process_ended(holder, path, STALE_AFTER)


def _read_holder(lease: Path) -> Json:
    try:
        return json.loads(lease.read_text())
    except (OSError, ValueError):
        return {}


def _holder_name(holder: Json) -> str:
    job = f", job {holder['job']}" if holder.get("job") else ""
    return f"process {holder.get('pid')} on {holder.get('host')}{job}" if holder else "another process"
