"""The questions of one run of a harness by outcome: id, kind and value of each, and the position of the rest."""

import json
import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sia_runner.reading.files import piece

UNVERIFIED = "not yet verified"
_KINDS = 200
_SCORES = re.compile(rb"\n  \{\n(.*?)\n  \}", re.S)  # an outcome as rundir.write_json writes it
_SLICE = 2 << 20
_LINE = 4 << 20


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its outcome and its number of model calls."""

    number: int  # in this index; -1: calls that named no question
    unit: str
    kind: str
    value: float | None
    prediction: str
    calls: int


class Questions:
    """The questions of one scores.json, and those that only keys.json names so far."""

    def __init__(self, run: Path, scores: str) -> None:
        self._run, self._scores = run, scores
        self._units: list[str] = []
        self._number: dict[str, int] = {}  # of a unit
        self.kind_names: list[str] = [UNVERIFIED]
        self._kinds, self._values = array("B"), array("d")
        self._starts, self._sizes = array("Q"), array("I")  # in scores.json
        self.calls = array("I")  # of each question

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self._units)

    def read(self) -> Iterator[None]:
        """Read all of scores.json, in slices."""
        at, rest = 0, b""
        while (part := piece(self._run, self._scores, at, _SLICE)) and part.data:
            data, end = rest + part.data, 0
            for match in _SCORES.finditer(data):
                self._outcome(match[1], at - len(rest) + match.start(1))
                end = match.end()
            at, rest = part.end, data[end:]
            if len(rest) > _LINE:
                return  # no run of ours writes such a file
            yield

    def number(self, unit: str) -> int:
        """Return the number of a question, a new one if its id was not known."""
        number = self._number.setdefault(unit, len(self._units))
        if number == len(self._units):
            self._units.append(unit)
            self._kinds.append(0)
            self._values.append(float("nan"))
            self._starts.append(0)
            self._sizes.append(0)
            self.calls.append(0)
        return number

    def kinds(self) -> dict[str, int]:
        """Return outcome kind -> number of questions."""
        totals = dict.fromkeys(self.kind_names, 0)
        for kind in self._kinds:
            totals[self.kind_names[kind]] += 1
        return {name: count for name, count in totals.items() if count}

    def choose(self, kind: str, search: str, start: int, limit: int) -> tuple[int, list[Question]]:
        """Return how many questions of `kind` (empty: any) have `search` in their id, and one page of them in order."""
        if kind and kind not in self.kind_names:
            return 0, []
        code = self.kind_names.index(kind) if kind else None
        chosen = [at for at, kind_code in enumerate(self._kinds) if code is None or kind_code == code]
        if search:
            chosen = [at for at in chosen if search in self._units[at]]
        return len(chosen), [self._question(at) for at in chosen[start : start + limit]]

    def _outcome(self, data: bytes, start: int) -> None:
        try:
            row = json.loads(b"{" + data + b"}")
            unit, kind, value = str(row["unit"]), str(row["kind"]), float(row["value"])
        except (ValueError, KeyError, TypeError):
            return
        number = self.number(unit)
        if kind not in self.kind_names and len(self.kind_names) < _KINDS:
            self.kind_names.append(kind)
        self._kinds[number] = self.kind_names.index(kind) if kind in self.kind_names else 0
        self._values[number] = value
        self._starts[number], self._sizes[number] = start, len(data)

    def _question(self, at: int) -> Question:
        value = self._values[at]
        finite = None if math.isnan(value) else value
        return Question(
            at, self._units[at], self.kind_names[self._kinds[at]], finite, self._prediction(at), self.calls[at]
        )

    def _prediction(self, at: int) -> str:
        chunk = piece(self._run, self._scores, self._starts[at], self._sizes[at])
        try:
            return str(json.loads(b"{" + chunk.data + b"}").get("prediction", "")) if chunk and chunk.data else ""
        except ValueError:
            return ""  # the file was rewritten since it was indexed
