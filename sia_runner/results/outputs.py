"""The harnesses of a run, the differences between two of them, and the logs. Bounded: hostile programs wrote them."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from sia_runner.store.files import FileSlice, list_folder, read_slice
from sia_runner.text import strip_control_characters

MAX_HARNESS_FILES = 200
MAX_HARNESS_BYTES = 256 << 10  # of one file
MAX_DIFF_LINES = 2_000  # differing lines of one file; longer ones are not compared line by line
_CONTEXT = 3


@dataclass(frozen=True, slots=True)
class FileChange:
    """The change of one file. `kind`: added, removed, changed.

    `lines` is a unified diff without its two head lines, empty if `note` says why there is none.
    """

    path: str
    kind: str
    added: int = 0
    removed: int = 0
    lines: tuple[str, ...] = ()
    note: str = ""


def harness_contents(run: Path, n: int) -> dict[str, bytes]:
    """Return path -> content of the files of a harness, each cut at `BYTES` + 1."""
    files: dict[str, bytes] = {}
    root = f"gen_{n}/harness"
    todo = [root]
    for folder in todo:
        for entry in list_folder(run, folder):
            path = f"{folder}/{entry.name}"
            if entry.kind == "folder" and len(todo) < MAX_HARNESS_FILES and entry.name != "__pycache__":
                todo.append(path)
            elif (
                entry.kind == "file"
                and len(files) < MAX_HARNESS_FILES
                and (data := read_slice(run, path, 0, MAX_HARNESS_BYTES + 1))
            ):
                files[path.removeprefix(f"{root}/")] = data.data
    return files


def diff_harnesses(run: Path, old: int | None, new: int) -> list[FileChange]:
    """Return the changes from generation `old` (None: from no files) to `new`, by path."""
    before, after = {} if old is None else harness_contents(run, old), harness_contents(run, new)
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
    return tuple(_shift_hunk(line, start) if line.startswith("@@ ") else line for line in lines)


def _shift_hunk(hunk: str, by: int) -> str:
    """Shift the line numbers of a hunk header ``@@ -1,4 +1,5 @@`` by `by` lines."""
    return re.sub(r"(?<=[-+])\d+", lambda match: str(int(match[0]) + by), hunk)


MAX_LOG_BYTES = 64 << 10  # bytes of one piece
_MAX_LOGS = 2_000
_LOG_NAME = re.compile(r"(\.log|\.out|\.err)$")
_LOG_FOLDER = re.compile(r"^(gen_\d{1,6}(/(gate|fold_\d+|rollouts|training))?|test(/gen_\d{1,6})?|jobs(/.*)?)?$")


@dataclass(frozen=True, slots=True)
class LogFile:
    """A log file of a run."""

    path: str  # relative to the run
    size: int  # bytes


def list_logs(run: Path) -> list[LogFile]:
    """Return the logs ordered by path, numbers as numbers. Folders that a harness writes into are skipped."""
    result: list[LogFile] = []
    todo = [""]
    for folder in todo:
        for entry in list_folder(run, folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if strip_control_characters(path) != path:
                continue
            if entry.kind == "file" and _LOG_NAME.search(entry.name) and len(result) < _MAX_LOGS:
                result.append(LogFile(path, entry.size))
            elif entry.kind == "folder" and _LOG_FOLDER.match(path) and len(todo) < _MAX_LOGS and path.count("/") < 6:
                todo.append(path)
    return sorted(result, key=lambda log: [int(part) if part.isdecimal() else 0 for part in re.split(r"\D+", log.path)])


def is_log(path: str) -> bool:
    """Report whether `path` (relative to the run) names a log that may be shown."""
    folder, _, name = path.rpartition("/")
    return bool(_LOG_NAME.search(name) and _LOG_FOLDER.match(folder))


def read_tail(run: Path, path: str, since: int | None = None) -> FileSlice | None:
    """Return what was added since byte `since` (None: the end), at most the newest `MOST` bytes.

    Return None if there is no such log.
    """
    if not is_log(path):
        return None
    end = read_slice(run, path, -MAX_LOG_BYTES, MAX_LOG_BYTES)
    if end is None or since is None or since > end.size or since < end.start:
        return end  # the first request, a replaced file, or more than fits
    return FileSlice(end.data[since - end.start :], since, end.end, end.size)
