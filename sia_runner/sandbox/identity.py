"""The user that a harness runs as when the runner is root: one that owns nothing."""

import os
from pathlib import Path

from sia_runner.sandbox.protocol import SandboxError

# No account uses these (systemd keeps this range for users that exist while a service runs).
_FIRST, _LAST = 61184, 65519
_NOBODY = 65534


def unprivileged() -> int:
    """Return a user and group number for one run, so that simultaneous runs cannot reach each other.

    Raises SandboxError where root itself lives in a user namespace that has no such number.
    """
    mapped = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    candidate = _FIRST + int.from_bytes(os.urandom(4), "big") % (_LAST - _FIRST)
    for uid in (candidate, _NOBODY):
        if any(first <= uid < first + count for first, _, count in mapped):
            return uid
    raise SandboxError("root has no unprivileged user number to give to a harness here; run as an ordinary user")


def kernel() -> tuple[int, int]:
    """Return the kernel's version as (major, minor)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdecimal()) or 0)


def closed(paths: list[str]) -> str:
    """Return the first folder on the way to these paths that other users may not enter; empty when none."""
    for path in paths:
        for folder in (*reversed(Path(os.path.realpath(path)).parents), Path(path)):
            if folder.is_dir() and not folder.stat().st_mode & 0o001:
                return os.fspath(folder)
    return ""
