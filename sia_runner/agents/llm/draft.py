"""The candidate's own folder: texts in memory, never more than the build stage takes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePosixPath

from sia_runner.agents.llm.apart import syntax_fault

MAX_FILES = 200  # as sia_runner/candidate/harness.py refuses more
MAX_BYTES = 4 * 1024 * 1024
_NAME_BYTES = 180  # below what a file system takes for one name, and harness.py for a whole path


class Refused(Exception):
    """What the model asked for cannot be done; the message is sent back to it."""


class Draft:
    def __init__(self, start: Mapping[str, str], entry: str) -> None:
        self.start, self.entry = dict(start), entry
        self._files = dict(start)

    @property
    def files(self) -> dict[str, str]:
        return dict(self._files)

    @property
    def changed(self) -> bool:
        return self._files != self.start

    def write(self, name: str, text: str) -> None:
        """Raises Refused."""
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
        self._files.pop(name)

    def fault(self) -> str:
        """Why this cannot be a harness, as one line; empty when it can."""
        if self.entry not in self._files:
            return f"the harness has no {self.entry}, which is the program that is run"
        fault = syntax_fault(self._files)
        return f"it does not parse: {fault}" if fault else ""

    def _check_place(self, name: str) -> None:
        """A name cannot be a file and a folder at once."""
        parents = {parent.as_posix() for parent in PurePosixPath(name).parents}
        for other in self._files:
            if other in parents or other.startswith(f"{name}/"):
                raise Refused(f"harness/{name} and harness/{other} cannot both be files")


def digest(files: Mapping[str, str]) -> str:
    """Names a harness by its content, to know it again in a later generation."""
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
