"""Write and check a proposed harness, whose text is hostile: names may lead outside, a parser may eat all memory."""

import errno
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sia_runner.proposers.files import MAX_HARNESS_BYTES, MAX_HARNESS_FILES
from sia_runner.store.files import regular_files
from sia_runner.store.run_directory import remove_tree

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}  # the machine's trouble, not the proposal's


class FaultyHarness(Exception):
    """The proposed files cannot be a harness; the message is one line for the proposer."""


def write_harness(files: Mapping[str, str], folder: Path, entry: str) -> None:
    """Write `files` as `folder`, replaced whole. Raises FaultyHarness."""
    if entry not in files:
        raise FaultyHarness(f"the harness has no {entry}; it brings: {', '.join(sorted(files)[:10]) or 'no file'}")
    if len(files) > MAX_HARNESS_FILES:
        raise FaultyHarness(f"the harness has {len(files)} files; allowed: {MAX_HARNESS_FILES}")
    size = 0
    for name, text in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or len(name) > 200:
            raise FaultyHarness(f"file name {name[:80]!r} leaves the harness folder")
        try:
            size += len(text.encode())
        except UnicodeEncodeError:
            raise FaultyHarness(f"{name} is no valid UTF-8 text") from None
    if size > MAX_HARNESS_BYTES:
        raise FaultyHarness(f"the harness has {size} bytes; allowed: {MAX_HARNESS_BYTES}")
    building = folder.with_name(f".{folder.name}.tmp")
    remove_tree(building)
    for name, text in files.items():
        try:
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            (building / name).write_text(text, encoding="utf-8", newline="")
        except OSError as error:
            if error.errno in _DISK:
                raise
            raise FaultyHarness(f"file name {name[:80]!r} cannot be written: {error.strerror}") from error
    remove_tree(folder)
    building.rename(folder)


def syntax_fault(harness: Path, entry: str) -> str:
    """Return the first syntax error in a .py file as one line; the entry program is left out, as it is run next."""
    from sia_runner.proposers import llm_workspace

    return llm_workspace.syntax_fault({name: text for name, text in read_harness(harness).items() if name != entry})


def read_harness(folder: Path) -> dict[str, str]:
    """Return all text files of a harness folder, name -> text."""
    paths = sorted(regular_files(folder))
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}
