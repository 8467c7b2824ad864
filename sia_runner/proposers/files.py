"""Reads text files of harnesses and evidence into memory: bounded in size and number, no link followed."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_MAX_HARNESS_FILES = 200
_MAX_HARNESS_FILE_BYTES = 1024 * 1024
CACHE_FOLDERS = frozenset({"__pycache__", "node_modules"})
_MAX_TREE_FILES = 2000
_MAX_TREE_BYTES = 32 * 1024 * 1024
_MAX_TREE_FILE_BYTES = 4 * 1024 * 1024  # a harness has no larger one


def read_harness_files(source: Path, entry: str) -> dict[str, str]:
    """Return relative path -> text with line ends as they are.

    A single file becomes `entry`, and so does the only .py at the top of a folder that has no `entry`.
    Hidden files, links, files above 1 MiB and files that are not UTF-8 text are left out; at most 200 files are read.
    """
    if source.is_file():
        text = _read_text(source)
        return {} if text is None else {entry: text}
    files: dict[str, str] = {}
    for path in _regular_files(source, with_hidden=False):
        text = _read_text(path)
        if text is not None:
            files[path.relative_to(source).as_posix()] = text
        if len(files) == _MAX_HARNESS_FILES:
            break
    programs = [name for name in files if name.endswith(".py") and "/" not in name]
    if entry not in files and len(programs) == 1:
        files[entry] = files.pop(programs[0])
    return files


def read_tree(folder: Path) -> dict[str, str]:
    """Return relative path -> text with line ends as they are; invalid UTF-8 becomes replacement marks.

    The folder is read once, so that nothing outside it can be named afterwards. A missing folder is empty.
    """
    texts: dict[str, str] = {}
    remaining = _MAX_TREE_BYTES
    for path in _regular_files(folder, with_hidden=True):
        if len(texts) == _MAX_TREE_FILES or remaining <= 0:
            break
        limit = min(_MAX_TREE_FILE_BYTES, remaining)
        with path.open("rb") as stream:
            raw = stream.read(limit + 1)
        if len(raw) > limit:
            raw = raw[:limit] + b"\n[the rest of this file is not shown]\n"
        remaining -= len(raw)
        texts[path.relative_to(folder).as_posix().encode(errors="replace").decode()] = raw.decode("utf-8", "replace")
    return texts


def _regular_files(folder: Path, with_hidden: bool) -> Iterator[Path]:
    """Yield regular files, those at the top first, each folder sorted by name; hidden ones and caches if wanted."""
    for where, folders, names in os.walk(folder):
        if not with_hidden:
            folders[:] = [name for name in folders if not name.startswith(".") and name not in CACHE_FOLDERS]
        folders.sort()
        for name in sorted(names):
            path = Path(where, name)
            if (with_hidden or not name.startswith(".")) and stat.S_ISREG(path.lstat().st_mode):
                yield path


def _read_text(path: Path) -> str | None:
    if path.stat().st_size > _MAX_HARNESS_FILE_BYTES:
        return None
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
