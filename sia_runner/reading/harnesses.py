"""The files of a generation's harness, and the differences between two. Bounded: a harness may be slow to compare."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from sia_runner.reading.files import listing, piece

FILES = 200
BYTES = 256 << 10  # of one file
LINES = 2_000  # differing lines of one file; longer ones are not compared line by line
_CONTEXT = 3


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one file. `kind`: added, removed, changed.

    `lines` is a unified diff without its two head lines, empty if `note` says why there is none.
    """

    path: str
    kind: str
    added: int = 0
    removed: int = 0
    lines: tuple[str, ...] = ()
    note: str = ""


def harness(run: Path, n: int) -> dict[str, bytes]:
    """Return path -> content of the files of a harness, each cut at `BYTES` + 1."""
    files: dict[str, bytes] = {}
    root = f"gen_{n}/harness"
    todo = [root]
    for folder in todo:
        for entry in listing(run, folder):
            path = f"{folder}/{entry.name}"
            if entry.kind == "folder" and len(todo) < FILES and entry.name != "__pycache__":
                todo.append(path)
            elif entry.kind == "file" and len(files) < FILES and (data := piece(run, path, 0, BYTES + 1)):
                files[path.removeprefix(f"{root}/")] = data.data
    return files


def difference(run: Path, old: int | None, new: int) -> list[Change]:
    """Return the changes from generation `old` (None: from no files) to `new`, by path."""
    before, after = {} if old is None else harness(run, old), harness(run, new)
    changed = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    return [_change(path, before.get(path), after.get(path)) for path in changed]


def _change(path: str, before: bytes | None, after: bytes | None) -> Change:
    kind = "added" if before is None else "removed" if after is None else "changed"
    if max(len(before or b""), len(after or b"")) > BYTES:
        return Change(path, kind, note=f"longer than {BYTES >> 10} KiB")
    if b"\0" in (before or b"") + (after or b""):
        return Change(path, kind, note="not text")
    old, new = ([] if data is None else data.decode(errors="replace").split("\n") for data in (before, after))
    lines = _unified(old, new)
    if lines is None:
        return Change(path, kind, note=f"more than {LINES:,} lines differ")
    added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
    return Change(path, kind, added, removed, lines)


def _unified(old: list[str], new: list[str]) -> tuple[str, ...] | None:
    """Diff what lies between the equal lines at the beginning and at the end, with some of these as context."""
    shortest = min(len(old), len(new))
    head = next((at for at in range(shortest) if old[at] != new[at]), shortest)
    tail = next((at for at in range(shortest - head) if old[-1 - at] != new[-1 - at]), shortest - head)
    if min(len(old), len(new)) - head - tail > 0 and max(len(old), len(new)) - head - tail > LINES:
        return None
    start, behind = max(0, head - _CONTEXT), max(0, tail - _CONTEXT)
    old_part, new_part = old[start : len(old) - behind], new[start : len(new) - behind]
    lines = [*difflib.unified_diff(old_part, new_part, lineterm="", n=_CONTEXT)][2:]
    return tuple(_shift_hunk(line, start) if line.startswith("@@ ") else line for line in lines)


def _shift_hunk(hunk: str, by: int) -> str:
    """Shift the line numbers of a hunk header ``@@ -1,4 +1,5 @@`` by `by` lines."""
    return re.sub(r"(?<=[-+])\d+", lambda match: str(int(match[0]) + by), hunk)
