"""The search for run directories below a folder. Links are not followed."""

import os
from pathlib import Path

from sia_runner.ground.plaintext import plain
from sia_runner.reading.files import Stamp

DEPTH = 4  # levels of folders below the root
FOLDERS = 50_000  # visited in one search


def find(root: Path) -> dict[str, str]:
    """Return the paths of runs below `root` (or ".") -> the path of the sweep each is part of, or ""."""
    if stamp_of(root / "config.yaml"):
        return {".": ""}
    runs: dict[str, str] = {}
    todo = [("", 0)]
    for searched, (folder, depth) in enumerate(todo):
        if searched == FOLDERS:
            break
        names = _folders(root / folder)
        sweep = folder if stamp_of(root / folder / "plan.json") else ""
        for name in names:
            path = f"{folder}/{name}" if folder else name
            if stamp_of(root / path / "config.yaml"):
                runs[path] = sweep
            elif depth + 1 < DEPTH and not name.startswith("."):
                todo.append((path, depth + 1))
    return runs


def stamp_of(path: Path) -> Stamp | None:
    """Return the stamp of a file or of the link itself. `find` reaches `path` without following a link."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def _folders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and _is_printable(entry.name)
            )
    except OSError:
        return []


def _is_printable(name: str) -> bool:
    """Report whether a name can be printed: no run of ours has another."""
    return plain(name) == name
