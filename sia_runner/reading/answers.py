"""Questions of one run of a harness by outcome, and the model calls made for each: an index of places in files.

What is kept of a question are its id, its kind and where the rest stands, so that 200,000 of them fit into some tens of
megabytes. Reading is cut into slices: whoever looks meanwhile sees what is there so far.
"""

import json
import re
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sia_runner.reading.files import Stamp, json_of, listing, piece, stamp
from sia_runner.reading.lines import Lines
from sia_runner.reading.questions import Question, Questions

NO_QUESTION = "no question named"
_ASKED = re.compile(rb'"question":\s*("(?:[^"\\]|\\.)*")')
_SLICE = 2 << 20
_KEYS = 64 << 20
_HEAD = 64 << 10  # bytes of a line in which its small fields stand


class Answers:
    """Of `place`: ``gen_3`` or ``test/gen_3``. One thread at a time; `refresh` before anything else."""

    def __init__(self, run: Path, place: str) -> None:
        self._run, self._place = run, place
        self._scores_stamp: Stamp | None = None
        self._work: Iterator[None] | None = self._all()
        self._forget()

    def refresh(self, seconds: float = 0.1) -> bool:
        """Read on for about so long. True: everything is read that is there now."""
        until = time.monotonic() + seconds
        now = stamp(self._run, f"{self._place}/scores.json")
        if now != self._scores_stamp:
            self._scores_stamp, self._work = now, self._all()
        self._work = self._work or self._calls()
        for _ in self._work:
            if time.monotonic() > until:
                return False
        self._work = None
        return True

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes of model calls that were read, and bytes there are."""
        return sum(lines.offset for lines in self._files), sum(lines.size for lines in self._files)

    def __len__(self) -> int:
        """Questions and calls: what it needs memory for, some 150 bytes each."""
        return len(self._questions) + len(self._starts)

    def kinds(self) -> dict[str, int]:
        """kind -> questions. Calls that named no question are one more, under their own name."""
        return self._questions.kinds() | ({NO_QUESTION: 1} if self._untagged else {})

    def questions(self, kind: str = "", search: str = "", start: int = 0, most: int = 50) -> tuple[int, list[Question]]:
        """How many there are of that kind (empty: of all) whose id holds `search`, and some of them in their order."""
        if kind == NO_QUESTION:
            return 1, [Question(-1, "", NO_QUESTION, None, "", self._untagged)]
        return self._questions.choose(kind, search, start, most)

    def calls(self, number: int, most: int = 200) -> list[int]:
        """Places of the calls made for a question, in the order in which they ended; `call` reads one."""
        found: list[int] = []
        for at, one in enumerate(self._asked):
            if one == number:
                found.append(at)
                if len(found) == most:
                    break
        return found

    def call(self, at: int, *, text: bool = True) -> dict[str, Any] | None:
        """A line of trajectories.jsonl, as models/trajectories.py describes it; without `text` no request and no
        response. None: it is not there any more."""
        if not 0 <= at < len(self._starts):
            return None
        name = f"{self._folders[self._in_file[at]]}/trajectories.jsonl"
        found = piece(self._run, name, self._starts[at], self._sizes[at] if text else min(self._sizes[at], _HEAD))
        if found is None:
            return None
        head, cut, _ = found.data.partition(b',"request":')  # between two fields: no string holds a bare quote
        try:
            line = json.loads(found.data if text or not cut else head + b"}")
        except (ValueError, RecursionError):
            return None
        return line if isinstance(line, dict) else None

    def _forget(self) -> None:
        self._questions = Questions(self._run, f"{self._place}/scores.json")
        self._starts, self._sizes, self._in_file, self._asked = array("Q"), array("I"), array("H"), array("l")
        self._untagged = 0
        self._folders: list[str] = []
        self._files: list[Lines] = []
        self._keys: list[dict[str, int]] = []
        self._stale: list[Stamp | None] = []

    def _all(self) -> Iterator[None]:
        self._forget()
        yield from self._questions.read()
        yield from self._calls()

    def _calls(self) -> Iterator[None]:
        """New lines of every site, in slices."""
        for at, folder in enumerate(self._sites()):
            self._read_keys(at, folder)
            yield
            while True:
                before = self._files[at].offset
                for line in self._files[at].fresh(_SLICE):
                    self._add_call(at, line.start, line.data)
                if self._files[at].restarted:  # the step is done again
                    self._scores_stamp = Stamp(0, 0, 0)
                    return
                if self._files[at].offset == before:
                    break
                yield

    def _sites(self) -> list[str]:
        folds = [entry.name for entry in listing(self._run, self._place) if entry.name.startswith("fold_")]
        folders = [f"{self._place}/{name}" for name in sorted(folds)] or [self._place]
        for folder in folders:
            if folder not in self._folders:
                self._folders.append(folder)
                self._files.append(Lines(self._run, f"{folder}/trajectories.jsonl"))
                self._keys.append({})
                self._stale.append(None)
        return self._folders

    def _read_keys(self, at: int, folder: str) -> None:
        """id in the view -> number of its question."""
        now = stamp(self._run, f"{folder}/keys.json")
        if now == self._stale[at]:
            return
        self._stale[at] = now
        keys = json_of(self._run, f"{folder}/keys.json", _KEYS)
        if isinstance(keys, dict):
            self._keys[at] = {str(view): self._questions.number(str(unit)) for view, unit in keys.items()}

    def _add_call(self, site: int, start: int, data: bytes) -> None:
        # fields stand before the request in the line, and no string of JSON holds a bare quote: this is the field
        found = _ASKED.search(data)
        try:
            number = self._keys[site].get(json.loads(found[1]), -1) if found else -1
        except ValueError:
            number = -1
        self._starts.append(start)
        self._sizes.append(len(data))
        self._in_file.append(site)
        self._asked.append(number)
        if number < 0:
            self._untagged += 1
        else:
            self._questions.calls[number] += 1
