"""Holds the draft of a candidate's harness in memory, within the limits of the build stage."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from sia_runner.agents.llm.apart import syntax_fault

MAX_FILES = 200  # the build stage refuses more
MAX_BYTES = 4 * 1024 * 1024
_NAME_BYTES = 180  # below the limits of file systems for a name and of the build stage for a path


class Refused(Exception):
    """A tool call that cannot be carried out; the message is sent back to the model."""


class Draft:
    """The harness that the model edits."""

    def __init__(self, start: Mapping[str, str], entry: str) -> None:
        self.start, self.entry = dict(start), entry
        self._files = dict(start)

    @property
    def files(self) -> dict[str, str]:
        """A copy of the draft's files."""
        return dict(self._files)

    @property
    def changed(self) -> bool:
        """True when the draft differs from its start."""
        return self._files != self.start

    def write(self, name: str, text: str) -> None:
        """Write a file. Raises Refused for an invalid name or text, or a harness that is too large."""
        _check_name(name)
        self._check_place(name)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Refused("the text holds half a surrogate pair, which is no valid UTF-8") from None
        size = _size({**self._files, name: text})
        if size > MAX_BYTES:
            raise Refused(f"the harness would have {size} bytes; allowed: {MAX_BYTES}")
        if name not in self._files and len(self._files) >= MAX_FILES:
            raise Refused(f"the harness has {MAX_FILES} files already, and may not have more")
        self._files[name] = text

    def delete(self, name: str) -> None:
        """Delete a file that exists."""
        self._files.pop(name)

    def fault(self) -> str:
        """Return the reason why this cannot be a harness, as one line; empty when it can."""
        if self.entry not in self._files:
            return f"the harness has no {self.entry}, which is the program that is run"
        fault = syntax_fault(self._files)
        return f"it does not parse: {fault}" if fault else ""

    def _check_place(self, name: str) -> None:
        """Refuse a name that would be a file and a folder at once."""
        parents = {parent.as_posix() for parent in PurePosixPath(name).parents}
        for other in self._files:
            if other in parents or other.startswith(f"{name}/"):
                raise Refused(f"harness/{name} and harness/{other} cannot both be files")


def digest(files: Mapping[str, str]) -> str:
    """Return a short hash of a harness's content, to recognise it in a later generation."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()[:16]


def _size(files: Mapping[str, str]) -> int:
    return sum(len(text.encode(errors="replace")) for text in files.values())


def _check_name(name: str) -> None:
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        length = _NAME_BYTES + 1
    if length > _NAME_BYTES or not name.isprintable() or "\\" in name:
        raise Refused(f"use a name of printable characters without backslash, at most {_NAME_BYTES} bytes")
