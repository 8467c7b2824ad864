"""Runs the tests of one task in the sandbox, with /app, /tests and /logs below the working folder.

Paths of these three in the tests' texts are changed to where they lie. It imports nothing of ours.
"""

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

TEXT_BYTES = 4 << 20  # larger files of the tests are left as they are


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into a folder, which may be there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")


def lay_out(here: Path, work: Path, moved: Callable[[str], str]) -> None:
    """Write the folders of the task below `work`; `moved` changes the paths in the texts of the tests."""
    unpack(here / "environment.tar", work / "app")
    unpack(here / "submission.tar", work / "app")
    unpack(here / "tests.tar", work / "tests")
    for name in ("verifier", "agent", "artifacts"):
        (work / "logs" / name).mkdir(parents=True, exist_ok=True)
    for path in (work / "tests").rglob("*"):
        if path.is_file() and path.stat().st_size <= TEXT_BYTES:
            try:
                text = path.read_bytes().decode()
            except UnicodeDecodeError:
                continue
            path.write_bytes(moved(text).encode())


def is_missing(command: list[str], text: str, path: str) -> bool:
    """Return whether the command cannot be run here, whatever was submitted. `text`: of test.sh, if there is one."""
    modules = {command[2].partition(".")[0]} if command[1:2] == ["-m"] and len(command) > 2 else set()
    words = re.sub(r"(?m)^\s*#.*", "", text) + f"\n{' '.join(command)}\n"
    modules |= {"pytest"} if re.search(r"(?<![\w./-])pytest\s", words) else set()
    return not shutil.which(command[0], path=path) or any(importlib.util.find_spec(name) is None for name in modules)


def run_tests(command: list[str], work: Path, seconds: float) -> dict[str, object]:
    """Run the tests in app/; return their exit code (None where they took too long), or that a program is missing."""
    python = work / "bin" / "python"  # a script, as a link to an environment's interpreter would forget its packages
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    (python.parent / "python3").symlink_to("python")
    pytest = python.parent / "pytest"  # an environment's own is not on PATH
    pytest.write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} -m pytest "$@"\n')
    pytest.chmod(0o755)
    environment = {"PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin", "HOME": str(work), "TMPDIR": str(work)}
    environment |= {"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
    script = work / "tests" / "test.sh"
    sys.path.append(str(work / "app"))  # as `python -m` does
    if is_missing(command, script.read_text(errors="replace") if script.is_file() else "", environment["PATH"]):
        return {"missing": True}
    try:
        done = subprocess.run(
            command, check=False, cwd=work / "app", env=environment, timeout=seconds, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return {"exit_code": None}
    return {"exit_code": done.returncode}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir")
    parser.add_argument("--working_dir", type=Path)
    work, here = parser.parse_args().working_dir.resolve(), Path(__file__).resolve().parent
    with (work / "asks").open(encoding="utf-8") as stream:
        job = json.loads(stream.readline())
    places = {job["workdir"]: work / "app", "/tests": work / "tests", "/logs": work / "logs"}
    names = "|".join(map(re.escape, places))
    pattern = re.compile(rf"(?<![\w./-])({names})(?=/|[^\w./-]|$)")

    def moved(text: str) -> str:
        return pattern.sub(lambda match: str(places[match[1]]), text)

    lay_out(here, work, moved)
    answer = run_tests(shlex.split(moved(job["command"])), work, job["seconds"])
    descriptor = os.open(work / "answers", os.O_WRONLY)
    os.write(descriptor, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
