"""The copying of a submission out of a harness's folder, which is hostile: links, pipes, devices, growing files.

No link is followed: every component is opened relative to its parent with O_NOFOLLOW, must be a regular file with one
name (a hard link could name a file of the host), and is copied in bounded memory up to its cap.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REFUSAL_FILE = "_refused.txt"  # written beside the copies: why the submission was not taken
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: opening a pipe must not wait
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CHUNK = 1 << 20
_LOGS, _LOG_MB = 1000, 16  # at most so many agent_execution files, so many MiB in all
_DEPTH = 8


class CopyRefusedError(Exception):
    """A file is not copied; the message says why in a few words."""


class NotRegularFileError(CopyRefusedError):
    """The file is a link, pipe or device, or cannot be read."""


class QuotaExceededError(CopyRefusedError):
    """A bound is exceeded: on one file's size, on all sizes, or on the number of files."""


@dataclass(slots=True)
class CopyQuota:
    """The number of files and bytes that may still be copied."""

    files: int
    bytes: int

    def take(self, root: int, name: str, dest: Path) -> None:
        """Copy file `name` below the open folder `root` to the same name below `dest`."""
        if self.files <= 0:
            raise QuotaExceededError("too many files")
        self.bytes -= copy_file(root, name, dest / name, self.bytes)
        self.files -= 1


def collect_submission(work: Path, dest: Path, submission: str, cap_mb: int, most_files: int = 1) -> None:
    """Copy the submission, and the logs for people: agent_execution.json, agent_execution/execution_q*.json.

    A submission whose name ends with a slash is a folder of at most `most_files` files, `cap_mb` MiB in all.
    """
    dest.mkdir(parents=True, exist_ok=True)
    root = os.open(work, _FOLDER)
    try:
        try:
            if submission.endswith("/"):
                _take_below(root, submission, dest, CopyQuota(most_files, cap_mb << 20), frozenset())
            else:
                CopyQuota(1, cap_mb << 20).take(root, submission, dest)
        except CopyRefusedError as refusal:
            _refuse(dest, f"{submission}: {refusal}")
        logs = CopyQuota(_LOGS, _LOG_MB << 20)
        for name in ["agent_execution.json", *_execution_files(root)]:
            with suppress(CopyRefusedError):  # a log that is no plain file of sensible size costs no score
                logs.take(root, name, dest)
    finally:
        os.close(root)


def collect_tree(work: Path, dest: Path, quota: CopyQuota, leave: frozenset[str]) -> None:
    """Copy all regular files below `work` except those named in `leave`.

    Other entries are left out. Exceeding a bound refuses the whole submission.
    """
    dest.mkdir(parents=True, exist_ok=True)
    root = os.open(work, _FOLDER)
    try:
        _take_below(root, "", dest, quota, leave)
    except CopyRefusedError as refusal:
        _refuse(dest, str(refusal))
    finally:
        os.close(root)


def _take_below(root: int, folder: str, dest: Path, quota: CopyQuota, leave: frozenset[str]) -> None:
    """Copy the files below `folder`, which is "" or ends with a slash. Raises TooMuchError."""
    for name in _walk(root, folder, 2 * quota.files):
        if name not in leave:
            with suppress(NotRegularFileError):
                quota.take(root, name, dest)


def read_refusal(submission: Path) -> str:
    """Return the reason why the submission was refused; empty when it was taken, or when there was none."""
    try:
        return (submission / REFUSAL_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def copy_file(root: int, name: str, dest: Path, cap: int) -> int:
    """Copy `name` below the open folder `root`; return its bytes. A file that does not exist counts 0."""
    try:
        source = _open_below(root, name)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise NotRegularFileError(f"not a plain file that can be read ({error.strerror})") from error
    try:
        facts = os.fstat(source)
        if not stat.S_ISREG(facts.st_mode):
            raise NotRegularFileError("not a regular file")
        if facts.st_nlink != 1:
            raise NotRegularFileError("a hard link")
        return _copy(source, facts.st_size, dest, cap)
    finally:
        os.close(source)


def _copy(source: int, size: int, dest: Path, cap: int) -> int:
    if size > cap:
        raise QuotaExceededError(f"larger than the {cap >> 20} MiB that are left for it")
    dest.parent.mkdir(parents=True, exist_ok=True)
    temporary = dest.with_name(".copying")  # a fixed short name: `dest` may already have the longest name allowed
    copied = 0
    with temporary.open("wb") as target:
        while chunk := os.read(source, _CHUNK):
            copied += len(chunk)
            if copied > cap:
                temporary.unlink()
                raise QuotaExceededError("grows while it is read")
            target.write(chunk)
    temporary.replace(dest)
    return copied


def _open_below(root: int, name: str) -> int:
    """Open a file or folder without following a link anywhere; refuse anything else before opening it."""
    *folders, last = name.split("/")
    folder_fd = os.dup(root)
    try:
        for folder in folders:
            child_fd = os.open(folder, _FLAGS | os.O_DIRECTORY, dir_fd=folder_fd)
            os.close(folder_fd)
            folder_fd = child_fd
        mode = os.stat(last, dir_fd=folder_fd, follow_symlinks=False).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(0, "link, pipe, socket or device")
        return os.open(last, _FLAGS, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)


def _execution_files(root: int) -> list[str]:
    names = _names(root, "agent_execution", _LOGS)
    return [f"agent_execution/{n}" for n in names if n.startswith("execution_q") and n.endswith(".json")]


def _names(root: int, folder: str, limit: int) -> list[str]:
    """Return up to `limit` names in one folder, sorted; none when it is no real folder."""
    try:
        folder_fd = _open_below(root, folder.rstrip("/"))
    except OSError:
        return []
    try:
        with os.scandir(folder_fd) as entries:
            return sorted(entry.name for _, entry in zip(range(limit), entries, strict=False))
    except OSError:
        return []
    finally:
        os.close(folder_fd)


def _walk(root: int, start: str, limit: int) -> Iterator[str]:
    """Yield the paths of all entries below the folder `start` except folders, folder by folder in sorted order.

    Raises TooMuchError when there are more than `limit` names.
    """
    folders = [start]
    while folders:
        prefix = folders.pop(0)
        names = _names(root, prefix or ".", limit + 1)
        limit -= len(names)
        if limit < 0:
            raise QuotaExceededError("too many files and folders")
        for path in (prefix + name for name in names):
            if path.count("/") < _DEPTH and _is_folder(root, path):
                folders.append(f"{path}/")
            else:
                yield path


def _is_folder(root: int, path: str) -> bool:
    try:
        folder_fd = _open_below(root, path)
    except OSError:
        return False
    try:
        return stat.S_ISDIR(os.fstat(folder_fd).st_mode)
    finally:
        os.close(folder_fd)


def _refuse(dest: Path, reason: str) -> None:
    (dest / REFUSAL_FILE).write_bytes(reason.encode("utf-8", "backslashreplace"))
