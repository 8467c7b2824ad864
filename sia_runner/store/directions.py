"""Directions: notes by which a person steers a run, from the file that holds one to its entry in the journal.

The process with the lease is the only writer of a journal. So a note is a file in RUN/directions until the run journals
it before its next proposal; a run that stands still does so once it is resumed.
"""

import getpass
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sia_runner.records import Json
from sia_runner.store.files import as_dict, as_int, as_text, list_folder, load_json
from sia_runner.store.journal import Journal, JournalReader
from sia_runner.store.run_directory import RunDir, RunDirectoryError, write_json
from sia_runner.text import one_line, strip_control_characters

MAX_CHARACTERS = 1_000  # of a note
MAX_WAITING = 20  # notes that wait for a proposal
NEWEST_DIRECTIONS = 20  # notes that a proposer is told
_MAX_FILE_BYTES = 1 << 16
_journaling = threading.Lock()  # several candidates of a run are proposed at once


@dataclass(frozen=True, slots=True)
class Direction:
    """A note of a person. `n` is the first generation whose proposal could follow it."""

    n: int
    text: str  # one line without control characters
    by: str = ""
    at: str = ""  # when it was left, ISO 8601

    def to_json(self) -> Json:
        """Return the record as JSON data."""
        return {"n": self.n, "text": self.text, "by": self.by, "at": self.at}

    @property
    def sentence(self) -> str:
        """The influence in words, for tables and pages."""
        return f'directed by a person before generation {self.n}: "{self.text}"'


def leave_direction(run: RunDir, text: str) -> None:
    """Leave a note for the next proposal of the run. Raises RunDirectoryError for one that no proposer can be told."""
    line = _clean(text)
    if not line:
        raise RunDirectoryError("the note is empty; say what the next proposal is to look at")
    if len(line) > MAX_CHARACTERS:
        raise RunDirectoryError(f"the note has {len(line):,} characters; allowed: at most {MAX_CHARACTERS:,}")
    if len(_waiting_names(run.path)) >= MAX_WAITING:
        raise RunDirectoryError(f"{run.directions}: {MAX_WAITING} notes wait for a proposal already; allowed: no more")
    run.directions.mkdir(exist_ok=True)
    try:
        author = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        author = ""
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex}.json"  # in the order of time
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    write_json(run.directions / name, {"text": line, "by": author, "at": moment})


def journal_directions(run: RunDir, journal: Journal, n: int) -> list[Direction]:
    """Journal the notes that wait, as directions of generation `n`, whose proposal is next; return the new ones."""
    new: list[Direction] = []
    with _journaling:
        for name in _waiting_names(run.path):
            note = as_dict(load_json(run.path, f"directions/{name}", _MAX_FILE_BYTES))
            line = one_line(_clean(as_text(note.get("text"))), MAX_CHARACTERS)
            # a kill between the two lines below leaves a file that was journaled
            if line and all(entry.get("note") != name for entry in journal.of("directed")):
                direction = Direction(n, line, _clean(as_text(note.get("by")))[:100], as_text(note.get("at"))[:40])
                fields = direction.to_json() | {"left": direction.at}  # `at` is the time of the entry
                del fields["at"]
                journal.append("directed", note=name, **fields)
                new.append(direction)
            (run.directions / name).unlink(missing_ok=True)
    return new


def read_directions(journal: JournalReader, until: int | None = None) -> tuple[Direction, ...]:
    """Return the journaled notes, the oldest first; those of generations up to `until` if it is not None."""
    directions: list[Direction] = []
    for entry in journal.of("directed"):
        n, text, by = as_int(entry.get("n")), as_text(entry.get("text")), as_text(entry.get("by"))
        if n is not None and text:
            moment = as_text(entry.get("left"))[:40]
            directions.append(Direction(n, one_line(text, MAX_CHARACTERS), one_line(by, 100), moment))
    return tuple(direction for direction in directions if until is None or direction.n <= until)


def count_waiting(run: Path) -> int:
    """Return the number of notes that no proposal could follow yet."""
    return len(_waiting_names(run))


def directed_words(directions: Sequence[object] | int) -> str:
    """Return ``directed by a person, 2 notes`` for an arm that was steered; empty for one that was not."""
    count = directions if isinstance(directions, int) else len(directions)
    return f"directed by a person, {count} note{'' if count == 1 else 's'}" if count else ""


def _waiting_names(run: Path) -> list[str]:
    names = [entry.name for entry in list_folder(run, "directions") if entry.kind == "file"]
    return [name for name in names if name.endswith(".json") and not name.startswith(".")]


def _clean(text: str) -> str:
    return " ".join(strip_control_characters(text).split())
