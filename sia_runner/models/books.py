"""One process's file of the ledger, added up: what was announced, what was settled, what never got an answer.

A line announces an attempt, and one of three others ends it:

    {"sent": 7, "generation": 2, "candidate": "gen_2", "purpose": "select", "input": 900, "output": 1024, "usd": .01, …}
    {"done": 7, "input": 843, "output": 95, "cached": 0, "usd": .0012}      answered, at what the provider said it used
    {"undone": 7}          it never reached the provider
    {"unanswered": 7}      it may have been charged for: counted as reserved
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sia_runner.models.prices import PICO
from sia_runner.records import Usage

Line = Mapping[str, Any]
UNITS = ("usd", "tokens", "calls")


class Amount(NamedTuple):
    """`usd` in picodollars: sums are exact."""

    usd: int = 0
    tokens: int = 0
    calls: int = 0


class Account(NamedTuple):
    """Under what usage is kept."""

    generation: int
    candidate: str
    purpose: str

    def pots(self) -> list[str]:
        """The pots that its calls are paid from: `work` or `test` of the run, and `gen_<n>` where a generation pays."""
        of_run = "test" if self.purpose == "test" else "work"
        return [of_run, f"gen_{self.generation}"] if self.generation else [of_run]


@dataclass(slots=True)
class Row:
    """What one account spent. Calls without an answer are in all figures, at what was reserved for them."""

    usd: int = 0  # picodollars; nothing for calls whose price is not known
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    calls: int = 0
    unanswered: int = 0
    unpriced: int = 0  # calls whose price is not known

    def add(self, other: "Row") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def priced(self) -> bool:
        """False: `usd` leaves calls out, because nobody says what they cost."""
        return self.unpriced == 0

    @property
    def dollars(self) -> float:
        return self.usd / PICO

    def usage(self) -> Usage:
        return Usage(self.dollars, self.input_tokens + self.output_tokens, self.calls)


class _Sent(NamedTuple):
    account: Account
    input: int
    output: int
    usd: int | None

    @property
    def amount(self) -> Amount:
        return Amount(self.usd or 0, self.input + self.output, 1)


@dataclass(slots=True)
class Book:
    """Fed line by line: by the process that writes them, or from a file, from where it was read last."""

    rows: dict[Account, Row] = field(default_factory=dict)
    under_way: dict[int, _Sent] = field(default_factory=dict)
    _spent: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    _reserved: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    _read: int = 0  # bytes

    def add(self, line: Line) -> None:
        if "sent" in line:
            account = Account(line["generation"], line["candidate"], line["purpose"])
            sent = _Sent(account, line["input"], line["output"], _pico(line["usd"]))
            self.under_way[line["sent"]] = sent
            self._move(self._reserved, sent, sent.amount, 1)
        elif "done" in line:
            self._done(line["done"], Row(0, line["input"], line["output"], line["cached"]), _pico(line["usd"]))
        elif "undone" in line:
            self._take(line["undone"])
        elif "unanswered" in line:
            self._unanswered(line["unanswered"])

    def abandon(self) -> None:
        """Nobody will settle what is under way any more: these are calls without an answer."""
        for number in list(self.under_way):
            self._unanswered(number)

    def spent(self, pot: str, unit: int) -> int:
        return self._spent[pot][unit] if pot in self._spent else 0

    def used(self, pot: str, unit: int) -> int:
        """Spent, and reserved for calls under way."""
        return self.spent(pot, unit) + (self._reserved[pot][unit] if pot in self._reserved else 0)

    def catch_up(self, path: Path) -> None:
        """Read what was appended since; a last line that is not whole yet is left for the next time."""
        try:
            with path.open("rb") as stream:
                stream.seek(self._read)
                whole = stream.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return
        for line in parsed(whole):
            self.add(line)
        self._read += len(whole) + 1 if whole else 0

    def _unanswered(self, number: int) -> None:
        sent = self.under_way[number]
        self._done(number, Row(0, sent.input, sent.output, unanswered=1), sent.usd)

    def _done(self, number: int, row: Row, usd: int | None) -> None:
        sent = self._take(number)
        row.calls, row.usd, row.unpriced = 1, usd or 0, int(usd is None)
        self.rows.setdefault(sent.account, Row()).add(row)
        self._move(self._spent, sent, Amount(row.usd, row.input_tokens + row.output_tokens, 1), 1)

    def _take(self, number: int) -> _Sent:
        sent = self.under_way.pop(number)
        self._move(self._reserved, sent, sent.amount, -1)
        return sent

    def _move(self, sums: dict[str, list[int]], sent: _Sent, amount: Amount, sign: int) -> None:
        for pot in sent.account.pots():
            for unit, value in enumerate(amount):
                sums[pot][unit] += sign * value


def parsed(whole: bytes) -> Iterator[Line]:
    """The lines that are JSON. What a full disk cut is passed over: its call was never sent, or has no answer."""
    for raw in whole.split(b"\n"):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def _pico(usd: float | None) -> int | None:
    return None if usd is None else round(usd * PICO)
