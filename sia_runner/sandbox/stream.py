"""The stream between a runner and a host where its harnesses run: frames, and folders as frames.

A frame is one byte that names its kind, four bytes of length, and that many bytes. The kinds: ``K`` a sign of life;
``J`` a request or an answer, as JSON; ``L`` a part of the log; ``P`` a folder and ``F`` a file (JSON: path, size, x),
whose content follows as ``D``; ``.`` the end of a folder; ``E`` why nothing can be run, one line; ``B`` that
the host has cleaned up, after which it says nothing more.
Links and special files are never sent and cannot be expressed. Neither end believes what it reads: sizes, numbers and
paths are checked before anything is written. Standard library only: it runs on the host too.
"""

import contextlib
import json
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from typing import Any

MAX_FRAME = 1 << 20  # bytes of one frame's content
HEARTBEAT = 5.0  # seconds between two signs of life
MAX_SILENCE = 30.0  # seconds without a sign of life after which the other end is lost
BEGIN = b"\nsia_runner.host 1\n"  # before it, a login shell may have printed something
_MAX_GREETING = 1 << 16  # bytes of that
_CHUNK = 1 << 16
_MIN_ENTRY_BYTES = 4096  # counted for every entry, as the limit of work/ does
_MAX_DEPTH, _MAX_PATH, _MAX_NAME = 64, 3000, 255  # folders, bytes, bytes


class LinkLost(Exception):
    """The other end has gone, or says nothing any more."""


class StreamFault(Exception):
    """The other end sent what the protocol does not allow; the message is one line."""


class Frames:
    """Frames that are read from one descriptor and written to another; any thread may write."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._lock = threading.Lock()
        self._buffer = bytearray()

    def send(self, kind: bytes, content: bytes = b"") -> None:
        """Write a frame. Raises LinkLost."""
        self.send_raw(kind + len(content).to_bytes(4, "big") + content)

    def send_raw(self, content: bytes) -> None:
        """Write bytes that are no frame. Raises LinkLost."""
        data = memoryview(content)
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._writer, data) :]
            except OSError as error:
                raise LinkLost(f"the connection ended: {error.strerror}") from None

    def send_json(self, kind: bytes, value: object) -> None:
        """Write a frame of JSON."""
        self.send(kind, json.dumps(value).encode())

    def wait_for_begin(self, seconds: float) -> None:
        """Skip all up to `BEGIN`. Raises LinkLost, or StreamFault where it is too much."""
        end = time.monotonic() + seconds
        while (at := self._buffer.find(BEGIN)) < 0:
            if len(self._buffer) > _MAX_GREETING:
                raise StreamFault("something else than the program for harnesses answers")
            self._read(end - time.monotonic())
        del self._buffer[: at + len(BEGIN)]

    def receive(self, seconds: float = MAX_SILENCE) -> tuple[bytes, bytes]:
        """Return kind and content of the next frame. Raises LinkLost after `seconds` in which nothing came."""
        while len(self._buffer) < 5:
            self._read(seconds)
        size = int.from_bytes(self._buffer[1:5], "big")
        if size > MAX_FRAME:
            raise StreamFault(f"a frame of {size} bytes; allowed: {MAX_FRAME}")
        while len(self._buffer) < 5 + size:
            self._read(seconds)
        kind, content = bytes(self._buffer[:1]), bytes(self._buffer[5 : 5 + size])
        del self._buffer[: 5 + size]
        return kind, content

    def _read(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if not poll.poll(max(0, seconds * 1000)):
            raise LinkLost(f"nothing was heard for {seconds:g} s")
        data = os.read(self._reader, _CHUNK)
        if not data:
            raise LinkLost("the connection ended")
        self._buffer += data


def parse_json(content: bytes) -> Any:
    """Return the value of a frame of JSON. Raises StreamFault."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise StreamFault("a frame holds no JSON") from None


def path_parts(path: object) -> tuple[str, ...]:
    """Return the parts of a relative path that stays inside its folder. Raises StreamFault for any other."""
    parts = tuple(path.split("/")) if isinstance(path, str) else ()
    try:
        sizes = [len(os.fsencode(part)) for part in parts]
    except UnicodeEncodeError:
        sizes = []
    plain = sizes and not any(part in ("", ".", "..") or "\0" in part for part in parts)
    if not plain or max(sizes) > _MAX_NAME or sum(sizes) + len(sizes) > _MAX_PATH or len(parts) > _MAX_DEPTH:
        raise StreamFault(f"the path {str(path)[:100]!r}; allowed: a relative path of plain names")
    return parts


class TreeTooLarge(Exception):
    """A folder holds more than may be sent."""


def send_tree(frames: Frames, folder: str, limit: int | None = None, owner: int | None = None) -> None:
    """Send the folders and regular files in `folder`; links are not followed, and everything else is left out.

    Files that are not of `owner` are left out. Raises TreeTooLarge, before anything is sent, beyond `limit` bytes.
    """
    entries = _list_tree(folder, owner)
    total = sum(max(_MIN_ENTRY_BYTES, info.st_size) for _, info in entries)
    if limit is not None and total > limit:
        raise TreeTooLarge(f"work/ holds more than {limit >> 20} MiB once it is copied")
    for path, info in entries:
        if stat.S_ISDIR(info.st_mode):
            frames.send_json(b"P", {"path": path})
        else:
            _send_file(frames, folder, path, info)
    frames.send(b".")


def _list_tree(folder: str, owner: int | None) -> list[tuple[str, os.stat_result]]:
    """Return the relative paths of what may be sent, each folder before its content."""
    entries: list[tuple[str, os.stat_result]] = []
    folders = [""]
    while folders:
        above = folders.pop()
        try:
            pairs = [(entry, entry.stat(follow_symlinks=False)) for entry in os.scandir(f"{folder}/{above}")]
        except PermissionError:  # a harness took its own right to read it
            if owner is None:
                raise
            continue
        for entry, info in sorted(pairs, key=lambda pair: pair[0].name):
            path = above + entry.name
            foreign = owner is not None and info.st_uid != owner
            if foreign or not (stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)):
                continue
            try:
                path_parts(path)
            except StreamFault:  # too deep or too long: what reads a submission does not follow it there either
                continue
            entries.append((path, info))
            if stat.S_ISDIR(info.st_mode):
                folders.append(f"{path}/")
    return entries


def _send_file(frames: Frames, folder: str, path: str, info: os.stat_result) -> None:
    """Send exactly as many bytes as announced: what a file lost meanwhile is zeros, and what it gained is left out."""
    try:
        file = os.open(f"{folder}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:  # a harness took its own right to read it
        return
    size = info.st_size
    frames.send_json(b"F", {"path": path, "size": size, "x": bool(info.st_mode & 0o100)})
    try:
        while size:
            data = os.read(file, min(_CHUNK, size)) or bytes(min(_CHUNK, size))
            frames.send(b"D", data)
            size -= len(data)
    finally:
        os.close(file)


def receive_tree(receive: Callable[[], tuple[bytes, bytes]], folder: str, limit: int) -> None:
    """Write what `send_tree` sends into the empty `folder`; `receive` returns its frames, without signs of life.

    Raises StreamFault where it is more than `limit` bytes, or no tree.
    """
    total = 0
    while True:
        kind, content = receive()
        if kind == b".":
            return
        entry = parse_json(content)
        size = entry.get("size", 0) if isinstance(entry, dict) else -1
        if kind not in (b"F", b"P") or type(size) is not int or size < 0:
            raise StreamFault("something else than a file or a folder")
        total += max(_MIN_ENTRY_BYTES, size)
        if total > limit:
            raise StreamFault(f"more than {limit >> 20} MiB of files")
        path = "/".join((folder, *path_parts(entry.get("path"))))
        try:
            if kind == b"P":
                os.mkdir(path)
            else:
                _receive_file(receive, path, size, executable=entry.get("x") is True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError, IsADirectoryError):
            raise StreamFault(f"the path {entry['path'][:100]!r} a second time, or without its folder") from None


def _receive_file(receive: Callable[[], tuple[bytes, bytes]], path: str, size: int, *, executable: bool) -> None:
    mode = 0o755 if executable else 0o644
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with contextlib.closing(os.fdopen(file, "wb")) as out:
        while size:
            kind, content = receive()
            if kind != b"D" or not 0 < len(content) <= size:
                raise StreamFault("a file without its content")
            out.write(content)
            size -= len(content)
