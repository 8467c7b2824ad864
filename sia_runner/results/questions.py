"""The index of one run of a harness: its questions by outcome, and the positions of the model calls made for each."""

import json
import math
import re
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sia_runner.records import Json
from sia_runner.store.files import FileStamp, LineReader, file_stamp, list_folder, load_json, parse_object, read_slice

NOT_VERIFIED = "not yet verified"
_MAX_KINDS = 200
_OUTCOME_PATTERN = re.compile(rb"\n  \{\n(.*?)\n  \}", re.S)  # an outcome as run_directory.write_json writes it
_SCORES_SLICE = 2 << 20
_MAX_OUTCOME_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """A question with its outcome and its number of model calls."""

    number: int  # in this index; -1: calls that named no question
    unit: str
    kind: str
    value: float | None
    prediction: str
    calls: int


@dataclass(slots=True)
class _CallFile:
    """One trajectories.jsonl, and the mapping from ids in its view to question numbers."""

    folder: str
    lines: LineReader
    numbers: dict[str, int] = field(default_factory=dict)
    keys_stamp: FileStamp | None = None


UNTAGGED = "no question named"
_QUESTION_FIELD = re.compile(rb'"question":\s*("(?:[^"\\]|\\.)*")')
_CALLS_SLICE = 2 << 20
_MAX_CALLS = 200  # of a question
_MAX_KEYS_BYTES = 64 << 20
_HEAD_BYTES = 64 << 10  # bytes at the start of a line that contain its short fields


class QuestionIndex:
    """The questions and model calls of ``gen_3`` or ``test/gen_3``. Not thread safe. Call `refresh` first."""

    def __init__(self, run: Path, folder: str) -> None:
        self._run, self._place, self._scores = run, folder, f"{folder}/scores.json"
        self._scores_stamp: FileStamp | None = None
        self._pending: Iterator[None] | None = self._read_all()
        self._clear()

    def _clear(self) -> None:
        self._units: list[str] = []
        self._numbers: dict[str, int] = {}  # of units
        self._kind_names: list[str] = [NOT_VERIFIED]
        self._kinds, self._values, self._call_counts = array("B"), array("d"), array("I")  # of questions
        self._outcome_starts, self._outcome_sizes = array("Q"), array("I")  # in scores.json
        self._files: list[_CallFile] = []
        self._starts, self._sizes, self._in_file, self._call_questions = array("Q"), array("I"), array("H"), array("l")
        self._untagged = 0

    def refresh(self, seconds: float = 0.1) -> bool:
        """Read on for about `seconds`. Return True once everything on disk has been read."""
        deadline = time.monotonic() + seconds
        current = file_stamp(self._run, self._scores)
        if current != self._scores_stamp:
            self._scores_stamp, self._pending = current, self._read_all()
        self._pending = self._pending or self._read_calls()
        for _ in self._pending:
            if time.monotonic() > deadline:
                return False
        self._pending = None
        return True

    @property
    def progress(self) -> tuple[int, int]:
        """The bytes of model calls read so far, and the bytes there are."""
        return sum(file.lines.offset for file in self._files), sum(file.lines.size for file in self._files)

    def __len__(self) -> int:
        """Return the number of questions and calls in the index, which needs some 150 bytes for each."""
        return len(self._units) + len(self._starts)

    def kinds(self) -> dict[str, int]:
        """Return outcome kind -> questions. Calls that named no question count as one more, under their own kind."""
        counts = Counter(self._kinds)
        kinds = {name: counts[code] for code, name in enumerate(self._kind_names) if counts[code]}
        return kinds | ({UNTAGGED: 1} if self._untagged else {})

    def questions(
        self, kind: str = "", search: str = "", start: int = 0, limit: int = 50
    ) -> tuple[int, list[QuestionRow]]:
        """Return how many questions of `kind` (empty: any) have `search` in their id, and one page of them in order."""
        if kind == UNTAGGED:
            return 1, [QuestionRow(-1, "", UNTAGGED, None, "", self._untagged)]
        if kind and kind not in self._kind_names:
            return 0, []
        code = self._kind_names.index(kind) if kind else None
        coded = enumerate(zip(self._units, self._kinds, strict=True))
        chosen = [at for at, (unit, of) in coded if code in (None, of) and search in unit]
        return len(chosen), [self._question(at) for at in chosen[start : start + limit]]

    def _question(self, at: int) -> QuestionRow:
        value, kind = self._values[at], self._kind_names[self._kinds[at]]
        chunk = read_slice(self._run, self._scores, self._outcome_starts[at], self._outcome_sizes[at])
        row = parse_object(b"{" + chunk.data + b"}") if chunk else None  # None: rewritten since it was indexed
        prediction = str((row or {}).get("prediction", ""))
        finite = None if math.isnan(value) else value
        return QuestionRow(at, self._units[at], kind, finite, prediction, self._call_counts[at])

    def calls(self, number: int) -> list[int]:
        """Return the positions of the calls made for a question, in the order in which they ended; `call` reads one."""
        return list(islice((at for at, asked in enumerate(self._call_questions) if asked == number), _MAX_CALLS))

    def call(self, at: int, *, text: bool = True) -> Json | None:
        """Return a line of trajectories.jsonl (without `text` its short fields only), None if it is no longer there."""
        if not 0 <= at < len(self._starts):
            return None
        name = f"{self._files[self._in_file[at]].folder}/trajectories.jsonl"
        size = self._sizes[at] if text else min(self._sizes[at], _HEAD_BYTES)
        chunk = read_slice(self._run, name, self._starts[at], size)
        if chunk is None:
            return None
        head, cut, _ = chunk.data.partition(b',"request":')  # a bare quote is in no JSON string, so this is a key
        return parse_object(chunk.data if text or not cut else head + b"}")

    def _read_all(self) -> Iterator[None]:
        self._clear()
        yield from self._read_outcomes()
        yield from self._read_calls()

    def _read_outcomes(self) -> Iterator[None]:
        at, rest = 0, b""
        while (part := read_slice(self._run, self._scores, at, _SCORES_SLICE)) and part.data:
            data, end = rest + part.data, 0
            for match in _OUTCOME_PATTERN.finditer(data):
                self._add_outcome(match[1], at - len(rest) + match.start(1))
                end = match.end()
            at, rest = part.end, data[end:]
            if len(rest) > _MAX_OUTCOME_BYTES:
                return  # no run of ours writes such a file
            yield

    def _add_outcome(self, data: bytes, start: int) -> None:
        try:
            row = json.loads(b"{" + data + b"}")
            unit, kind, value = str(row["unit"]), str(row["kind"]), float(row["value"])
        except (ValueError, KeyError, TypeError):
            return
        number = self._number(unit)
        if kind not in self._kind_names and len(self._kind_names) < _MAX_KINDS:
            self._kind_names.append(kind)
        self._kinds[number] = self._kind_names.index(kind) if kind in self._kind_names else 0
        self._values[number] = value
        self._outcome_starts[number], self._outcome_sizes[number] = start, len(data)

    def _number(self, unit: str) -> int:
        number = self._numbers.setdefault(unit, len(self._units))
        if number == len(self._units):
            self._units.append(unit)
            self._values.append(math.nan)
            for column in (self._kinds, self._call_counts, self._outcome_starts, self._outcome_sizes):
                column.append(0)
        return number

    def _read_calls(self) -> Iterator[None]:
        folds = [entry.name for entry in list_folder(self._run, self._place) if entry.name.startswith("fold_")]
        for folder in [f"{self._place}/{name}" for name in sorted(folds)] or [self._place]:
            if all(file.folder != folder for file in self._files):
                self._files.append(_CallFile(folder, LineReader(self._run, f"{folder}/trajectories.jsonl")))
        for at, file in enumerate(self._files):
            self._read_keys(file)
            yield
            while True:
                before = file.lines.offset
                for line in file.lines.fresh(_CALLS_SLICE):
                    self._add_call(at, line.start, line.data)
                if file.lines.restarted:  # the step is being repeated
                    self._scores_stamp = FileStamp(0, 0, 0)
                    return
                if file.lines.offset == before:
                    break
                yield

    def _read_keys(self, file: _CallFile) -> None:
        current = file_stamp(self._run, f"{file.folder}/keys.json")
        if current == file.keys_stamp:
            return
        file.keys_stamp = current
        keys = load_json(self._run, f"{file.folder}/keys.json", _MAX_KEYS_BYTES)
        if isinstance(keys, dict):
            file.numbers = {str(view): self._number(str(unit)) for view, unit in keys.items()}

    def _add_call(self, file_number: int, start: int, data: bytes) -> None:
        # short fields precede the request in the line, and no JSON string contains a bare quote: this match is the key
        match = _QUESTION_FIELD.search(data)
        try:
            number = self._files[file_number].numbers.get(json.loads(match[1]), -1) if match else -1
        except ValueError:
            number = -1
        self._starts.append(start)
        self._sizes.append(len(data))
        self._in_file.append(file_number)
        self._call_questions.append(number)
        if number < 0:
            self._untagged += 1
        else:
            self._call_counts[number] += 1
