"""Questions of one run of a harness, by outcome: of each its id, its kind, its value, and where the rest stands."""

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
    number: int  # in this index, while the run lasts; -1: calls that named none
    unit: str
    kind: str
    value: float | None
    prediction: str
    calls: int


class Questions:
    """Of one scores.json, and those that only keys.json names so far."""

    def __init__(self, run: Path, scores: str) -> None:
        self._run, self._scores = run, scores
        self._units: list[str] = []
        self._number: dict[str, int] = {}  # of a unit
        self.kind_names: list[str] = [UNVERIFIED]
        self._kinds, self._values = array("B"), array("d")
        self._starts, self._sizes = array("Q"), array("I")  # in scores.json
        self.calls = array("I")  # of each question

    def __len__(self) -> int:
        return len(self._units)

    def read(self) -> Iterator[None]:
        """All of scores.json, in slices."""
        at, rest = 0, b""
        while (part := piece(self._run, self._scores, at, _SLICE)) and part.data:
            data, end = rest + part.data, 0
            for found in _SCORES.finditer(data):
                self._outcome(found[1], at - len(rest) + found.start(1))
                end = found.end()
            at, rest = part.end, data[end:]
            if len(rest) > _LINE:
                return  # no file of ours
            yield

    def number(self, unit: str) -> int:
        """A new one, where the unit was not known."""
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
        """kind -> questions."""
        found = dict.fromkeys(self.kind_names, 0)
        for kind in self._kinds:
            found[self.kind_names[kind]] += 1
        return {name: count for name, count in found.items() if count}

    def choose(self, kind: str, search: str, start: int, most: int) -> tuple[int, list[Question]]:
        """How many there are of that kind (empty: of all) whose id holds `search`, and some of them in their order."""
        if kind and kind not in self.kind_names:
            return 0, []
        code = self.kind_names.index(kind) if kind else None
        chosen = [at for at, one in enumerate(self._kinds) if code is None or one == code]
        if search:
            chosen = [at for at in chosen if search in self._units[at]]
        return len(chosen), [self._question(at) for at in chosen[start : start + most]]

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
        shown = None if math.isnan(value) else value
        return Question(
            at, self._units[at], self.kind_names[self._kinds[at]], shown, self._prediction(at), self.calls[at]
        )

    def _prediction(self, at: int) -> str:
        found = piece(self._run, self._scores, self._starts[at], self._sizes[at])
        try:
            return str(json.loads(b"{" + found.data + b"}").get("prediction", "")) if found and found.data else ""
        except ValueError:
            return ""  # it was written anew a moment ago
