"""What the model may read, taken into memory once: regular text files of one folder, bounded, no link followed."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

MAX_FILES = 2000
MAX_BYTES = 32 * 1024 * 1024
MAX_FILE_BYTES = 4 * 1024 * 1024  # a harness has no larger one


def read_tree(folder: Path) -> dict[str, str]:
    """Relative path -> text, line ends kept; what is no UTF-8 is shown with replacement marks.

    Read once, so that nothing outside the folder can ever be named afterwards. A folder that is not there is empty.
    """
    texts: dict[str, str] = {}
    room = MAX_BYTES
    for path in _regular_files(folder):
        if len(texts) == MAX_FILES or room <= 0:
            break
        raw = _read(path, min(MAX_FILE_BYTES, room))
        room -= len(raw)
        texts[path.relative_to(folder).as_posix().encode(errors="replace").decode()] = raw.decode("utf-8", "replace")
    return texts


def _regular_files(folder: Path) -> Iterator[Path]:
    """Files at the top first, each folder in the order of its names."""
    for where, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(where, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as stream:
        raw = stream.read(most + 1)
    return raw if len(raw) <= most else raw[:most] + b"\n[the rest of this file is not shown]\n"
