"""Parses paths that a model names: ``evidence/...`` to read, ``harness/...`` to read and to change."""

from pathlib import PurePosixPath
from typing import Literal

from sia_runner.agents.llm.draft import Refused

Place = Literal["evidence", "harness"]


def split(path: str) -> tuple[Place, str]:
    """Return the root and the name inside it, empty for the folder itself. Raises Refused."""
    parts = PurePosixPath(path).parts
    if ".." in parts or path.startswith("/") or "\0" in path:
        raise Refused(f"{shown(path)} leads out of evidence/ and harness/; nothing else can be reached")
    if parts and parts[0] == "evidence":
        return "evidence", "/".join(parts[1:])
    if parts and parts[0] == "harness":
        return "harness", "/".join(parts[1:])
    raise Refused(f"{shown(path)} is neither in evidence/ nor in harness/; paths begin with one of the two")


def writable(path: str) -> str:
    """Return the name inside harness/. Raises Refused."""
    root, name = split(path)
    if root == "evidence":
        raise Refused("evidence/ is read-only; what you change is in harness/")
    if not name:
        raise Refused("harness/ is the folder; name a file in it")
    return name


def shown(text: str, limit: int = 120) -> str:
    """Quote foreign text for a message: one line, bounded."""
    return repr(text if len(text) <= limit else text[:limit] + "…")
