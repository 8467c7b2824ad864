"""Reads the text files of a folder into memory once: regular files, bounded, no link followed."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

MAX_FILES = 2000
MAX_BYTES = 32 * 1024 * 1024
MAX_FILE_BYTES = 4 * 1024 * 1024  # a harness has no larger one


def read_tree(folder: Path) -> dict[str, str]:
    """Return relative path -> text with line ends as they are; invalid UTF-8 becomes replacement marks.

    The folder is read once, so that nothing outside it can be named afterwards. A missing folder is empty.
    """
    texts: dict[str, str] = {}
    remaining = MAX_BYTES
    for path in _regular_files(folder):
        if len(texts) == MAX_FILES or remaining <= 0:
            break
        raw = _read(path, min(MAX_FILE_BYTES, remaining))
        remaining -= len(raw)
        texts[path.relative_to(folder).as_posix().encode(errors="replace").decode()] = raw.decode("utf-8", "replace")
    return texts


def _regular_files(folder: Path) -> Iterator[Path]:
    """Yield regular files, those at the top first, each folder sorted by name."""
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(where, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        raw = stream.read(limit + 1)
    return raw if len(raw) <= limit else raw[:limit] + b"\n[the rest of this file is not shown]\n"
