"""Reads text files of harnesses and evidence into memory: bounded in size and number, no link followed."""

from pathlib import Path

from sia_runner.store.files import read_utf8, regular_files

MAX_HARNESS_FILES = 200
MAX_HARNESS_BYTES = 4 * 1024 * 1024
_MAX_HARNESS_FILE_BYTES = 1024 * 1024
CACHE_FOLDERS = frozenset({"__pycache__", "node_modules"})


def read_harness_files(source: Path, entry: str) -> dict[str, str]:
    """Return relative path -> text with line ends as they are.

    A single file becomes `entry`, and so does the only .py at the top of a folder that has no `entry`.
    Hidden files, links, files above 1 MiB and files that are not UTF-8 text are left out; at most 200 files are read.
    """
    files: dict[str, str] = {}
    for path in [source] if source.is_file() else regular_files(source):
        parts = path.relative_to(source).parts
        if any(part.startswith(".") or part in CACHE_FOLDERS for part in parts):
            continue
        text = read_utf8(path, _MAX_HARNESS_FILE_BYTES)
        if text is not None and "\0" not in text:
            files["/".join(parts) or entry] = text
        if len(files) == MAX_HARNESS_FILES:
            break
    programs = [name for name in files if name.endswith(".py") and "/" not in name]
    if entry not in files and len(programs) == 1:
        files[entry] = files.pop(programs[0])
    return files


_MAX_TREE_FILES, _MAX_TREE_BYTES = 2000, 32 * 1024 * 1024


def read_tree(folder: Path) -> dict[str, str]:
    """Return relative path -> text with line ends as they are; invalid UTF-8 becomes replacement marks.

    The folder is read once, so that nothing outside it can be named afterwards. A missing folder is empty.
    """
    texts: dict[str, str] = {}
    remaining = _MAX_TREE_BYTES
    for path in regular_files(folder):
        if len(texts) == _MAX_TREE_FILES or remaining <= 0:
            break
        limit = min(MAX_HARNESS_BYTES, remaining)
        with path.open("rb") as stream:
            raw = stream.read(limit + 1)
        if len(raw) > limit:
            raw = raw[:limit] + b"\n[the rest of this file is not shown]\n"
        remaining -= len(raw)
        texts[path.relative_to(folder).as_posix().encode(errors="replace").decode()] = raw.decode("utf-8", "replace")
    return texts
