"""Whose rights a harness gets when the runner is root: those of a user that owns nothing."""

import os
from pathlib import Path

from sia_runner.sandbox.protocol import SandboxError

# Nobody has an account here (systemd keeps this range for users that exist while a service runs).
_FIRST, _LAST = 61184, 65519
_NOBODY = 65534


def unprivileged() -> int:
    """A user and group number for one run, so that two runs at the same time cannot reach each other.

    Raises SandboxError where root itself lives in a user namespace that has no such number.
    """
    mapped = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    wanted = _FIRST + int.from_bytes(os.urandom(4), "big") % (_LAST - _FIRST)
    for uid in (wanted, _NOBODY):
        if any(first <= uid < first + count for first, _, count in mapped):
            return uid
    raise SandboxError("root has no unprivileged user number to give to a harness here; run as an ordinary user")


def kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdecimal()) or 0)


def closed(paths: list[str]) -> str:
    """The first folder on the way to these paths that a stranger may not pass; empty when there is none."""
    for path in paths:
        for folder in (*reversed(Path(os.path.realpath(path)).parents), Path(path)):
            if folder.is_dir() and not folder.stat().st_mode & 0o001:
                return os.fspath(folder)
    return ""
