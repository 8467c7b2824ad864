"""Where runs are below a folder. Links are not followed."""

import os
from pathlib import Path

from sia_runner.ground.plaintext import plain
from sia_runner.reading.files import Stamp

DEPTH = 4  # folders above a run, counted from the one that is given
FOLDERS = 50_000  # looked at in one search


def find(root: Path) -> dict[str, str]:
    """Runs below `root` (or itself) -> the sweep each is part of, or "". Links are not followed."""
    if stamp_of(root / "config.yaml"):
        return {".": ""}
    found: dict[str, str] = {}
    todo = [("", 0)]
    for looked, (folder, depth) in enumerate(todo):
        if looked == FOLDERS:
            break
        names = _folders(root / folder)
        sweep = folder if stamp_of(root / folder / "plan.json") else ""
        for name in names:
            path = f"{folder}/{name}" if folder else name
            if stamp_of(root / path / "config.yaml"):
                found[path] = sweep
            elif depth + 1 < DEPTH and not name.startswith("."):
                todo.append((path, depth + 1))
    return found


def stamp_of(path: Path) -> Stamp | None:
    """Of the file or the link itself; `find` came here without following one."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def _folders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and _shown(entry.name))
    except OSError:
        return []


def _shown(name: str) -> bool:
    """No run of ours has a name that cannot be printed."""
    return plain(name) == name
