"""Is a process that announced itself in a file still at work? On this machine and across nodes.

A file says who wrote it (`identity`) and is touched regularly. Where the process can be looked for, it is; elsewhere
the touches count, by the file system's own clock, so that nodes whose clocks differ agree.
"""

import os
import socket
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def identity() -> dict[str, Any]:
    """This process, to be told from any other and from a later one with the same number."""
    return {**place(), "pid": os.getpid(), "started": started(os.getpid()), "job": os.environ.get("SLURM_JOB_ID")}


def gone(process: Mapping[str, Any], file: Path, after: float) -> bool:
    """Has `process` ended or, where we cannot look for it, not touched `file` for `after` seconds?"""
    if all(process.get(key) == value for key, value in place().items()):
        return started(int(process["pid"])) != process["started"]
    return untouched(file) > after


def untouched(file: Path) -> float:
    """Seconds since `file` was touched, by the clock of the file system that holds it; infinite without it."""
    probe = file.with_name(f".clock.{uuid.uuid4().hex}")
    probe.touch()
    try:
        with file.open("rb") as stream:  # opening asks the server again: a network file system remembers attributes
            return probe.stat().st_mtime - os.fstat(stream.fileno()).st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink()


def place() -> dict[str, Any]:
    """Host, start of its kernel, and the name space of its process numbers (a container has its own)."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"host": socket.gethostname(), "boot": boot, "space": os.readlink("/proc/self/ns/pid")}  # noqa: PTH115


def started(pid: int | str) -> str:
    """Start time of a process in clock ticks; empty when it ended, though nobody may have asked how."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
