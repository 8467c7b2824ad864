"""Reads a harness from a file or folder as the `files` of a proposal: text only, bounded in size and number."""

import os
from collections.abc import Iterator
from pathlib import Path

MAX_FILES = 200
MAX_FILE_BYTES = 1024 * 1024
_NOT_SOURCE = frozenset({"__pycache__", "node_modules"})


def read_text_files(source: Path, entry: str) -> dict[str, str]:
    """Return relative path -> text with line ends as they are.

    A single file becomes `entry`, and so does the only .py at the top of a folder that has no `entry`.
    Hidden files, links, files above 1 MiB and files that are not UTF-8 text are left out; at most 200 files are read.
    """
    if source.is_file():
        text = _text(source)
        return {} if text is None else {entry: text}
    files: dict[str, str] = {}
    for path in _regular_files(source):
        text = _text(path)
        if text is not None:
            files[path.relative_to(source).as_posix()] = text
        if len(files) == MAX_FILES:
            break
    programs = [name for name in files if name.endswith(".py") and "/" not in name]
    if entry not in files and len(programs) == 1:
        files[entry] = files.pop(programs[0])
    return files


def _regular_files(folder: Path) -> Iterator[Path]:
    """Yield regular files, those at the top first, each folder sorted by name."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NOT_SOURCE)
        for name in sorted(names):
            path = Path(where, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def _text(path: Path) -> str | None:
    if path.stat().st_size > MAX_FILE_BYTES:
        return None
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
