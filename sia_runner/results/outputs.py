"""The harnesses of a run, the differences between two of them, and the logs. Bounded: hostile programs wrote them."""

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sia_runner.store.files import FileSlice, FolderEntry, list_folder, read_slice
from sia_runner.text import strip_control_characters

_MAX_HARNESS_FILES = 200
MAX_HARNESS_BYTES = 256 << 10  # of one file
MAX_DIFF_LINES = 2_000  # differing lines of one file; longer ones are not compared line by line
_CONTEXT = 3


@dataclass(frozen=True, slots=True)
class FileChange:
    """The change of one file. `lines`: a unified diff without its head, empty if `note` says why there is none."""

    path: str
    kind: str  # added, removed, changed
    added: int = 0
    removed: int = 0
    lines: tuple[str, ...] = ()
    note: str = ""


def _walk(run: Path, root: str, max_folders: int, enters: Callable[[str], bool]) -> Iterator[tuple[str, FolderEntry]]:
    """Yield the files below a folder of a run with their paths, of at most `max_folders` folders that it enters."""
    todo = [root]
    for folder in todo:
        for entry in list_folder(run, folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.kind == "file":
                yield path, entry
            elif entry.kind == "folder" and len(todo) < max_folders and enters(path):
                todo.append(path)


def _harness_contents(run: Path, n: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}  # by path
    root = f"gen_{n}/harness"
    for path, _ in _walk(run, root, _MAX_HARNESS_FILES, lambda path: not path.endswith("/__pycache__")):
        if len(files) < _MAX_HARNESS_FILES and (chunk := read_slice(run, path, 0, MAX_HARNESS_BYTES + 1)):
            files[path.removeprefix(f"{root}/")] = chunk.data
    return files


def diff_harnesses(run: Path, old: int | None, new: int) -> list[FileChange]:
    """Return the changes from generation `old` (None: from no files) to `new`, by path."""
    before, after = {} if old is None else _harness_contents(run, old), _harness_contents(run, new)
    changed = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    return [_diff_file(path, before.get(path), after.get(path)) for path in changed]


def _diff_file(path: str, before: bytes | None, after: bytes | None) -> FileChange:
    kind = "added" if before is None else "removed" if after is None else "changed"
    if max(len(before or b""), len(after or b"")) > MAX_HARNESS_BYTES:
        return FileChange(path, kind, note=f"longer than {MAX_HARNESS_BYTES >> 10} KiB")
    if b"\0" in (before or b"") + (after or b""):
        return FileChange(path, kind, note="not text")
    old, new = ([] if data is None else data.decode(errors="replace").split("\n") for data in (before, after))
    lines = _diff_lines(old, new)
    if lines is None:
        return FileChange(path, kind, note=f"more than {MAX_DIFF_LINES:,} lines differ")
    added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
    return FileChange(path, kind, added, removed, lines)


def _diff_lines(old: list[str], new: list[str]) -> tuple[str, ...] | None:
    """Diff what lies between the equal lines at the beginning and at the end, with some of these as context."""
    shortest = min(len(old), len(new))
    head = next((at for at in range(shortest) if old[at] != new[at]), shortest)
    tail = next((at for at in range(shortest - head) if old[-1 - at] != new[-1 - at]), shortest - head)
    if min(len(old), len(new)) - head - tail > 0 and max(len(old), len(new)) - head - tail > MAX_DIFF_LINES:
        return None
    start, behind = max(0, head - _CONTEXT), max(0, tail - _CONTEXT)
    old_part, new_part = old[start : len(old) - behind], new[start : len(new) - behind]
    lines = [*difflib.unified_diff(old_part, new_part, lineterm="", n=_CONTEXT)][2:]
    return tuple(
        re.sub(r"(?<=[-+])\d+", lambda match: str(int(match[0]) + start), line) if line.startswith("@@ ") else line
        for line in lines  # the line numbers in @@ -1,4 +1,5 @@ are those of the parts
    )


MAX_LOG_BYTES = 64 << 10  # bytes of one piece
_MAX_LOGS = 2_000
_LOG_NAME = re.compile(r"(\.log|\.out|\.err)$")
_LOG_FOLDER = re.compile(r"^(gen_\d{1,6}(/(gate|fold_\d+|rollouts|training))?|test(/gen_\d{1,6})?|jobs(/.*)?)?$")


def list_logs(run: Path) -> dict[str, int]:
    """Return path -> bytes, ordered by path, numbers as numbers. Folders that a harness writes into are skipped."""

    def enters(path: str) -> bool:
        return bool(_LOG_FOLDER.match(path)) and path.count("/") < 6 and strip_control_characters(path) == path

    def numbers(log: tuple[str, int]) -> list[int]:
        return [int(part) if part.isdecimal() else 0 for part in re.split(r"\D+", log[0])]

    files = [(path, entry.size) for path, entry in _walk(run, "", _MAX_LOGS, enters) if _LOG_NAME.search(path)]
    logs = [(path, size) for path, size in files if strip_control_characters(path) == path]
    return dict(sorted(logs[:_MAX_LOGS], key=numbers))


def read_tail(run: Path, path: str, since: int | None = None) -> FileSlice | None:
    """Return the newest `MAX_LOG_BYTES` of what a log has since byte `since` (None: all). None if there is no log."""
    folder, _, name = path.rpartition("/")
    if not (_LOG_NAME.search(name) and _LOG_FOLDER.match(folder)):
        return None
    end = read_slice(run, path, -MAX_LOG_BYTES, MAX_LOG_BYTES)
    if end is None or since is None or since > end.size or since < end.start:
        return end  # the first request, a replaced file, or more than fits
    return FileSlice(end.data[since - end.start :], since, end.end, end.size)
