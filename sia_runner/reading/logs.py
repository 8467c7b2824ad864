"""The logs of a run: their names and pieces of them. Their content was written by hostile programs."""

import re
from dataclasses import dataclass
from pathlib import Path

from sia_runner.ground.plaintext import plain
from sia_runner.reading.files import Piece, listing, piece

MOST = 64 << 10  # bytes of one piece
_FILES = 2_000
_NAMES = re.compile(r"(\.log|\.out|\.err)$")
_PLACES = re.compile(r"^(gen_\d{1,6}(/(gate|fold_\d+|rollouts|training))?|test(/gen_\d{1,6})?|jobs(/.*)?)?$")


@dataclass(frozen=True, slots=True)
class Log:
    """A log file of a run."""

    path: str  # relative to the run
    size: int  # bytes


def logs(run: Path) -> list[Log]:
    """Return the logs ordered by path, numbers as numbers. Folders that a harness writes into are skipped."""
    result: list[Log] = []
    todo = [""]
    for folder in todo:
        for entry in listing(run, folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if plain(path) != path:
                continue
            if entry.kind == "file" and _NAMES.search(entry.name) and len(result) < _FILES:
                result.append(Log(path, entry.size))
            elif entry.kind == "folder" and _PLACES.match(path) and len(todo) < _FILES and path.count("/") < 6:
                todo.append(path)
    return sorted(result, key=lambda log: [int(part) if part.isdecimal() else 0 for part in re.split(r"\D+", log.path)])


def is_log(path: str) -> bool:
    """Report whether `path` (relative to the run) names a log that may be shown."""
    folder, _, name = path.rpartition("/")
    return bool(_NAMES.search(name) and _PLACES.match(folder))


def tail(run: Path, path: str, since: int | None = None) -> Piece | None:
    """Return what was added since byte `since` (None: the end), at most the newest `MOST` bytes.

    Return None if there is no such log.
    """
    if not is_log(path):
        return None
    end = piece(run, path, -MOST, MOST)
    if end is None or since is None or since > end.size or since < end.start:
        return end  # the first request, a replaced file, or more than fits
    return Piece(end.data[since - end.start :], since, end.end, end.size)
