"""Pinned wheels of the package index: fetched once with pip, checked, and kept as wheels/<sha256>.whl of the cache."""

import subprocess
import sys
from pathlib import Path

from sia_runner.errors import RunnerError
from sia_runner.store.run_directory import sha256_of

_FETCH_SECONDS = 900


class WheelError(RunnerError):
    """A wheel cannot be used; the message is one line for the user."""


class NotFetchedError(WheelError):
    """A wheel cannot be fetched: no network, no such package, or no answer from the package index."""


def cached_wheel(wheel: str, sha256: str, cache: Path, temporary: Path) -> Path:
    """Return the wheel `name==version` in the cache, downloaded if missing or damaged. Raises WheelError.

    `temporary` is on the same file system.
    """
    path = cache / "wheels" / f"{sha256}.whl"
    if path.is_file() and sha256_of(path) == sha256:
        return path
    fetched = _download(wheel, temporary)
    digest = sha256_of(fetched)
    if digest != sha256:
        raise WheelError(f"{fetched.name} has sha256 {digest}; it has to be {sha256}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return fetched.replace(path)


def _download(wheel: str, dest: Path) -> Path:
    """Download with pip, so that the user's own index, mirror and proxy settings hold."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(dest), wheel]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        problem = f"no answer for {_FETCH_SECONDS} s"
    else:
        wheels = sorted(dest.glob("*.whl"))
        if wheels and not completed.returncode:
            return wheels[0]
        errors = [line for line in completed.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        problem = errors[-1].removeprefix("ERROR: ").strip() if completed.returncode else "pip brought no wheel"
    raise NotFetchedError(f"{wheel} is not in the cache and cannot be fetched ({problem})")
