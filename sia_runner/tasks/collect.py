"""The copying of a submission out of a harness's folder, which is hostile: links, pipes, devices, growing files.

No link is followed: every component is opened relative to its parent with O_NOFOLLOW, must be a regular file with one
name (a hard link could name a file of the host), and is copied in bounded memory up to its cap.
"""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sia_runner.store.files import list_folder, open_folder

REFUSAL_FILE = "_refused.txt"  # written beside the copies: why the submission was not taken
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: opening a pipe must not wait
_CHUNK = 1 << 20
_LOGS, _LOG_MB = 1000, 16  # at most so many agent_execution files, so many MiB in all
_DEPTH = 8


class _CopyRefusedError(Exception):
    """A bound is exceeded, or else the subclass: the message says why in a few words."""


class _NotRegularFileError(_CopyRefusedError):
    """The file is a link, pipe or device, or cannot be read."""


@dataclass(slots=True)
class CopyQuota:
    """The number of files and bytes that may still be copied."""

    files: int
    bytes: int

    def take(self, work: Path, name: str, dest: Path) -> None:
        """Copy file `name` below `work` to the same name below `dest`. A file that does not exist counts 0 bytes."""
        if self.files <= 0:
            raise _CopyRefusedError("too many files")
        above, _, last = name.rpartition("/")
        try:  # without following a link anywhere; anything but a file or folder is refused before it is opened
            with open_folder(work, above) as folder:
                mode = os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise _NotRegularFileError("not a plain file that can be read (link, pipe, socket or device)")
                source = os.open(last, _FLAGS, dir_fd=folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _NotRegularFileError(f"not a plain file that can be read ({error.strerror})") from error
        try:
            facts = os.fstat(source)
            if not stat.S_ISREG(facts.st_mode):
                raise _NotRegularFileError("not a regular file")
            if facts.st_nlink != 1:
                raise _NotRegularFileError("a hard link")
            self.bytes -= _copy(source, facts.st_size, dest / name, self.bytes)
        finally:
            os.close(source)
        self.files -= 1


def collect_submission(work: Path, dest: Path, submission: str, cap_mb: int, most_files: int = 1) -> None:
    """Copy the submission, and the logs for people: agent_execution.json, agent_execution/execution_q*.json.

    A submission whose name ends with a slash is a folder of at most `most_files` files, `cap_mb` MiB in all.
    """
    dest.mkdir(parents=True, exist_ok=True)
    try:
        if submission.endswith("/"):
            _take_below(work, submission, dest, CopyQuota(most_files, cap_mb << 20), frozenset())
        else:
            CopyQuota(1, cap_mb << 20).take(work, submission, dest)
    except _CopyRefusedError as refusal:
        (dest / REFUSAL_FILE).write_text(f"{submission}: {refusal}", "utf-8", "backslashreplace")
    logs = CopyQuota(_LOGS, _LOG_MB << 20)
    names = [entry.name for entry in list_folder(work, "agent_execution", _LOGS)]
    executions = [f"agent_execution/{n}" for n in names if n.startswith("execution_q") and n.endswith(".json")]
    for name in ["agent_execution.json", *executions]:
        with suppress(_CopyRefusedError):  # a log that is no plain file of sensible size costs no score
            logs.take(work, name, dest)


def collect_tree(work: Path, dest: Path, quota: CopyQuota, leave: frozenset[str]) -> None:
    """Copy all regular files below `work` not named in `leave`; exceeding a bound refuses the whole submission."""
    dest.mkdir(parents=True, exist_ok=True)
    try:
        _take_below(work, "", dest, quota, leave)
    except _CopyRefusedError as refusal:
        (dest / REFUSAL_FILE).write_text(str(refusal), "utf-8", "backslashreplace")


def read_refusal(submission: Path) -> str:
    """Return the reason why the submission was refused; empty when it was taken, or when there was none."""
    try:
        return (submission / REFUSAL_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _take_below(work: Path, folder: str, dest: Path, quota: CopyQuota, leave: frozenset[str]) -> None:
    """Copy the files below `folder`, which is "" or ends with a slash: folder by folder, in sorted order."""
    folders, limit = [folder], 2 * quota.files
    while folders:
        prefix = folders.pop(0)
        entries = list_folder(work, prefix.rstrip("/"), limit + 1)
        limit -= len(entries)
        if limit < 0:
            raise _CopyRefusedError("too many files and folders")
        for entry in entries:
            path = prefix + entry.name
            if entry.kind == "folder" and path.count("/") < _DEPTH:
                folders.append(f"{path}/")
            elif path not in leave:
                with suppress(_NotRegularFileError):
                    quota.take(work, path, dest)


def _copy(source: int, size: int, dest: Path, cap: int) -> int:
    """Copy an open file of `size` bytes; return the bytes copied, at most `cap`."""
    if size > cap:
        raise _CopyRefusedError(f"larger than the {cap >> 20} MiB that are left for it")
    dest.parent.mkdir(parents=True, exist_ok=True)
    temporary = dest.with_name(".copying")  # a fixed short name: `dest` may already have the longest name allowed
    copied = 0
    with temporary.open("wb") as target:
        while chunk := os.read(source, _CHUNK):
            copied += len(chunk)
            if copied > cap:
                temporary.unlink()
                raise _CopyRefusedError("grows while it is read")
            target.write(chunk)
    temporary.replace(dest)
    return copied
