"""The work folder as the supervisor sees it: its size and owner. It is hostile: no file is opened, no link followed."""

import contextlib
import os
import stat
from collections.abc import Iterator

_MIN_ENTRY_BYTES = 4096  # counted for every entry, so that one limit bounds bytes and number of files


def used_bytes(work: str, pids: "list[int]", limit: int) -> int:
    """Return the bytes that `work` takes, with deleted files that `pids` hold open; may stop above `limit`."""
    total = 0
    try:
        for entry in _walk(work):
            size = 0
            with contextlib.suppress(FileNotFoundError):  # removed or moved while we looked
                size = entry.stat(follow_symlinks=False).st_blocks * 512
            total += max(size, _MIN_ENTRY_BYTES)
            if total > limit:
                return total
        return total + _deleted_bytes(os.stat(work).st_dev, pids)
    except OSError:  # a folder, or a process's open files, cannot be read: something is being hidden
        return limit + 1


def _deleted_bytes(device: int, pids: "list[int]") -> int:
    sizes: dict[int, int] = {}
    for pid in pids:
        for file in _open_files(pid):
            with contextlib.suppress(FileNotFoundError):  # closed while we looked
                info = os.stat(file)
                if info.st_nlink == 0 and info.st_dev == device and stat.S_ISREG(info.st_mode):
                    sizes[info.st_ino] = info.st_blocks * 512
    return sum(sizes.values())


def _open_files(pid: int) -> "list[str]":
    folder = f"/proc/{pid}/fd"
    try:
        return [f"{folder}/{name}" for name in os.listdir(folder)]
    except (FileNotFoundError, ProcessLookupError):
        return []
    except PermissionError:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/statm") as file:
            if not file.read().startswith("0 "):
                raise
        return []  # a zombie, without memory: the kernel gives what is left of it to root


def free_bytes(work: str) -> int:
    """Return the bytes that are free on the disk of `work`."""
    numbers = os.statvfs(work)
    return numbers.f_bavail * numbers.f_frsize


def give_to_user(work: str, uid: int) -> None:
    """Give `work` and its content to the user and group `uid`."""
    os.chown(work, uid, uid)
    for entry in _walk(work):
        os.chown(entry.path, uid, uid, follow_symlinks=False)


def restore_owner(work: str, owner: "tuple[int, int] | None") -> None:
    """Give `work` back to `owner` (None: the harness ran as its owner), make folders readable, clear setuid bits."""
    uid = os.stat(work).st_uid
    if owner:
        os.chown(work, *owner)
    os.chmod(work, stat.S_IMODE(os.stat(work).st_mode) & ~0o6000 | 0o700)
    with contextlib.suppress(OSError):  # too deep to walk: what reads the submission does not follow it there either
        for entry in _walk(work, repair=True):
            info = entry.stat(follow_symlinks=False)
            # a file of somebody else can only be here by a hard link: it is not ours to give away
            if owner and info.st_uid == uid:
                os.chown(entry.path, *owner, follow_symlinks=False)
            if info.st_mode & 0o6000 and not stat.S_ISLNK(info.st_mode):
                os.chmod(entry.path, stat.S_IMODE(info.st_mode) & ~0o6000)


def readable_by_all(path: str) -> bool:
    """Tell whether every user of this machine may read `path` and its content, given a way to it."""
    top = os.stat(path)
    below = _walk(path) if stat.S_ISDIR(top.st_mode) else ()
    return _open(top.st_mode) and all(_open(entry.stat(follow_symlinks=False).st_mode) for entry in below)


def _open(mode: int) -> bool:
    needed = 0o005 if stat.S_ISDIR(mode) else 0o004
    return stat.S_ISLNK(mode) or mode & needed == needed


def _walk(folder: str, repair: bool = False) -> Iterator[os.DirEntry[str]]:
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed or replaced while we looked
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                if repair:
                    os.chmod(entry.path, stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode) | 0o700)
                waiting.append(entry.path)
