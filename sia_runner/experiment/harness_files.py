"""Write and check a proposed harness.

Its text is hostile: paths stay inside, sizes are bounded, syntax is checked in a process of its own (a parser can be
made to eat memory).
"""

import errno
import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sia_runner.store.run_directory import remove_tree

MAX_FILES = 200
MAX_BYTES = 4 * 1024 * 1024
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}  # the machine's trouble, not the proposal's
_PARSE = """
import ast, json, sys
for name, text in json.load(sys.stdin).items():
    try:
        ast.parse(text, name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


class FaultyHarness(Exception):
    """The proposed files cannot be a harness; the message is one line for the proposer."""


def write_harness(files: Mapping[str, str], folder: Path, entry: str) -> None:
    """Write `files` as `folder`, replaced whole. Raises FaultyHarness."""
    _check_shape(files, entry)
    building = folder.with_name(f".{folder.name}.tmp")
    remove_tree(building)
    for name, text in files.items():
        _write(building / name, name, text)
    remove_tree(folder)
    building.rename(folder)


def _write(path: Path, name: str, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        if error.errno in _DISK:
            raise
        raise FaultyHarness(f"file name {name[:80]!r} cannot be written: {error.strerror}") from error


def _check_shape(files: Mapping[str, str], entry: str) -> None:
    if entry not in files:
        raise FaultyHarness(f"the harness has no {entry}; it brings: {', '.join(sorted(files)[:10]) or 'no file'}")
    if len(files) > MAX_FILES:
        raise FaultyHarness(f"the harness has {len(files)} files; allowed: {MAX_FILES}")
    for name, text in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or len(name) > 200:
            raise FaultyHarness(f"file name {name[:80]!r} leaves the harness folder")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise FaultyHarness(f"{name} is no valid UTF-8 text") from None
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_BYTES:
        raise FaultyHarness(f"the harness has {size} bytes; allowed: {MAX_BYTES}")


def syntax_fault(harness: Path, entry: str, seconds: float = 10.0) -> str:
    """The first syntax error in a .py file of the harness as one line; empty when all parse.

    The entry program is left out: it is run next, and the interpreter says the same.
    """
    sources = {name: text for name, text in read_harness(harness).items() if name.endswith(".py") and name != entry}
    if not sources:
        return ""
    try:
        parsed = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _PARSE],
            input=json.dumps(sources),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            preexec_fn=_bound_memory,  # one setrlimit call, no locks
        )
    except subprocess.TimeoutExpired:
        return f"parsing took longer than {seconds:.0f} s"
    if parsed.returncode == 0:
        return ""
    return (parsed.stderr.strip().splitlines() or [f"the parser died with code {parsed.returncode}"])[-1][:300]


def _bound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))


def read_harness(folder: Path) -> dict[str, str]:
    """Return all text files of a harness folder, name -> text."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
