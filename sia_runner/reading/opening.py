"""Openers of files and folders below a folder that hostile programs wrote into: no links, pipes or devices."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def opened(root: Path, relative: str) -> Iterator[int | None]:
    """Yield a file descriptor to read from, or None if `relative` is no regular file below `root` or passes a link."""
    descriptor = None
    with suppress(OSError, ValueError):
        descriptor = _open(root, relative)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open(root: Path, relative: str) -> int:
    above, _, name = relative.rpartition("/")
    folder = folder_of(root, above)
    try:
        # without O_NONBLOCK, opening a pipe would block until it has a writer
        file = os.open(_part(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError(relative)
    return file


def folder_of(root: Path, relative: str) -> int:
    """Return a descriptor of a folder below `root`. Raises OSError, ValueError.

    The path is opened part by part, so that no part is a link, not even one created a moment ago.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(root, flags)
    for part in relative.split("/") if relative else []:
        try:
            below = os.open(_part(part), flags | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _part(name: str) -> str:
    if name in ("", ".", ".."):
        raise ValueError(name)
    return name
