"""The program of a generation, and what changed from one to another. Bounded: a program may be written to be slow to
compare."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from sia_runner.reading.files import listing, piece

FILES = 200
BYTES = 256 << 10  # of one file
LINES = 2_000  # of one file that differ: what is longer is not compared line by line
_CONTEXT = 3


@dataclass(frozen=True, slots=True)
class Change:
    """`kind`: added, removed, changed. `lines`: of a unified diff, without its two head lines; empty where `note`
    says why there are none."""

    path: str
    kind: str
    added: int = 0
    removed: int = 0
    lines: tuple[str, ...] = ()
    note: str = ""


def harness(run: Path, n: int) -> dict[str, bytes]:
    """Path -> content of its files, each cut at `BYTES` + 1."""
    found: dict[str, bytes] = {}
    root = f"gen_{n}/harness"
    todo = [root]
    for folder in todo:
        for entry in listing(run, folder):
            path = f"{folder}/{entry.name}"
            if entry.kind == "folder" and len(todo) < FILES and entry.name != "__pycache__":
                todo.append(path)
            elif entry.kind == "file" and len(found) < FILES and (data := piece(run, path, 0, BYTES + 1)):
                found[path.removeprefix(f"{root}/")] = data.data
    return found


def difference(run: Path, old: int | None, new: int) -> list[Change]:
    """From generation `old` (None: from nothing) to `new`, by path."""
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
    """Of what lies between the equal lines at the beginning and at the end, with some of these around it."""
    most = min(len(old), len(new))
    head = next((at for at in range(most) if old[at] != new[at]), most)
    tail = next((at for at in range(most - head) if old[-1 - at] != new[-1 - at]), most - head)
    if min(len(old), len(new)) - head - tail > 0 and max(len(old), len(new)) - head - tail > LINES:
        return None
    start, behind = max(0, head - _CONTEXT), max(0, tail - _CONTEXT)
    here, there = old[start : len(old) - behind], new[start : len(new) - behind]
    lines = [*difflib.unified_diff(here, there, lineterm="", n=_CONTEXT)][2:]
    return tuple(_moved(line, start) if line.startswith("@@ ") else line for line in lines)


def _moved(hunk: str, by: int) -> str:
    """``@@ -1,4 +1,5 @@`` as it is where the text begins `by` lines later."""
    return re.sub(r"(?<=[-+])\d+", lambda found: str(int(found[0]) + by), hunk)
