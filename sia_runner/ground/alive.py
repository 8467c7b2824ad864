"""Process identity tells whether the process that wrote a file is still alive, on this machine and across nodes.

A file holds the `identity` of its writer, which touches the file regularly. On the writer's own machine we look for the
process; from elsewhere we compare the last touch with the file system's clock, so that nodes whose clocks differ agree.
"""

import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def identity() -> dict[str, Any]:
    """Return what distinguishes this process from any other, also from a later one with the same PID."""
    return {**place(), "pid": os.getpid(), "started": started(os.getpid()), "job": os.environ.get("SLURM_JOB_ID")}


def gone(process: Mapping[str, Any], file: Path, after: float) -> bool:
    """Return True if `process` ended or, on another machine, did not touch `file` for `after` seconds."""
    if all(process.get(key) == value for key, value in place().items()):
        return started(int(process["pid"])) != process["started"]
    return untouched(file) > after


def untouched(file: Path) -> float:
    """Return the seconds since `file` was touched, by its file system's clock; infinity if there is no such file."""
    probe = file.with_name(f".clock.{uuid.uuid4().hex}")
    probe.touch()
    try:
        with file.open("rb") as stream:  # a network file system caches attributes; opening the file refreshes them
            return probe.stat().st_mtime - os.fstat(stream.fileno()).st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink()


def place() -> dict[str, Any]:
    """Return the host, the boot id of its kernel and the PID namespace (a container has its own)."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"host": socket.gethostname(), "boot": boot, "space": os.readlink("/proc/self/ns/pid")}  # noqa: PTH115


def started(pid: int | str) -> str:
    """Return the start time of a process in clock ticks; empty if it ended, also while it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
