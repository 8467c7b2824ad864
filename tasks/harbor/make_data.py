"""Writes task folders of Harbor or Terminal-Bench as a table, their tests and files as archives beside it.

    python make_data.py --out DIR --source FOLDER [--command COMMAND]

labelled.csv: a row for each task. environment/<n>.tar: its files to begin with. tests/<n>.tar and tests/<n>.json: what
verifier.py runs; no view has them.
"""

import argparse
import csv
import json
import re
import shlex
import sys
import tarfile
import tomllib
from pathlib import Path

MOST_TASKS, MOST_BYTES = 10_000, 256 << 20
INSTALLS = re.compile(r"\b(apt-get|apt|apk|yum|dnf|pip3?\s+install|uvx?|npm|curl|wget|git\s+clone)\b")
_IMAGE_FILES = {"Dockerfile", "docker-compose.yaml", "docker-compose.yml", ".dockerignore", "singularity-compose.yaml"}


def find_tasks(folder: Path) -> list[Path]:
    """Return the folders of tasks: this one, or those at most two levels below it."""
    for pattern in ("", "*/", "*/*/"):
        names = [f"{pattern}task.toml", f"{pattern}task.yaml"]
        if folders := sorted({path.parent for name in names for path in folder.glob(name)}):
            return folders
    sys.exit(f"no task.toml or task.yaml in {folder} or below it (task.dir)")


def read_task(folder: Path) -> tuple[str, float]:
    """Return the instruction and the time limit of the tests. Ends where one run on files cannot be the task."""
    if (folder / "task.toml").is_file():
        settings = tomllib.loads((folder / "task.toml").read_text(encoding="utf-8"))
        if settings.get("steps"):
            sys.exit(f"{folder.name} has several steps, which depend on one machine; allowed: tasks of one step")
        if str(settings.get("environment", {}).get("os", "linux")).lower() != "linux":
            sys.exit(f"{folder.name} is for Windows; allowed: linux")
        if settings.get("environment", {}).get("mcp_servers"):
            sys.exit(f"{folder.name} needs servers of tools (environment.mcp_servers), which no sandbox of ours has")
        instruction, seconds = folder / "instruction.md", settings.get("verifier", {}).get("timeout_sec", 600)
        if not instruction.is_file():
            sys.exit(f"{folder.name} has no instruction.md")
        return instruction.read_text(encoding="utf-8"), float(seconds)
    import yaml

    settings = yaml.safe_load((folder / "task.yaml").read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or not isinstance(settings.get("instruction"), str):
        sys.exit(f"{folder.name}/task.yaml has no instruction")
    return settings["instruction"], float(settings.get("max_test_timeout_sec", 600))


def command_of(folder: Path, command: str) -> str:
    """Return the command that runs the tests. Ends where that takes a network."""
    if command:
        try:
            words = shlex.split(command)
        except ValueError as error:
            sys.exit(f"task.command={command}: {error}")
        return command if words else sys.exit("task.command is empty")
    script = folder / "tests" / "test.sh"
    if not script.is_file():
        sys.exit(f"{folder.name} has no tests/test.sh; say how its tests are run: task.command")
    if installer := INSTALLS.search(script.read_text(encoding="utf-8", errors="replace")):
        advice = 'task.command="python -m pytest -q /tests/test_outputs.py" runs them with what is installed here'
        sys.exit(f"tests/test.sh of {folder.name} calls {installer[1]}, and the sandbox has no network; {advice}")
    return "bash /tests/test.sh"


def archive(path: Path, folder: Path, excluded: set[str]) -> None:
    """Write the regular files below `folder`, except those named at its top in `excluded`."""
    path.parent.mkdir(exist_ok=True)
    size = 0
    with tarfile.open(path, "w") as out:
        for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
            name = file.relative_to(folder)
            if name.parts[0] in excluded or "__pycache__" in name.parts or file.is_symlink() or not file.is_file():
                continue
            size += file.stat().st_size
            if size > MOST_BYTES:
                sys.exit(f"{folder} holds more than {MOST_BYTES >> 20} MiB")
            member = tarfile.TarInfo(name.as_posix())
            member.size, member.mode = file.stat().st_size, 0o755 if file.stat().st_mode & 0o100 else 0o644
            with file.open("rb") as stream:
                out.addfile(member, stream)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--command", default="")
    options = parser.parse_args()
    tasks = find_tasks(options.source)
    if len(tasks) > MOST_TASKS:
        sys.exit(f"{options.source} has {len(tasks):,} tasks; allowed: {MOST_TASKS:,}")
    rows = []
    for number, folder in enumerate(tasks, 1):
        try:
            instruction, seconds = read_task(folder)
        except Exception as error:  # noqa: BLE001 - whatever a file that is not of this kind makes a parser raise
            sys.exit(f"{folder.name} cannot be read: {' '.join(str(error).split())[:200] or type(error).__name__}")
        old = (folder / "task.yaml").is_file()  # Terminal-Bench, where everything lies at the top
        hidden = _IMAGE_FILES | (
            {"task.yaml", "solution.sh", "solution.yaml", "solution", "tests", "run-tests.sh"} if old else set()
        )
        archive(options.out / "environment" / f"{number}.tar", folder if old else folder / "environment", hidden)
        archive(options.out / "tests" / f"{number}.tar", folder / "tests", set())
        facts = {"command": command_of(folder, options.command), "seconds": seconds}
        (options.out / "tests" / f"{number}.json").write_text(json.dumps(facts), encoding="utf-8")
        rows.append([number, instruction, f"environment/{number}.tar", folder.name])
    with (options.out / "labelled.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", "instruction", "environment", "answer"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
