"""One process's file of the ledger and its sums: attempts announced, settled, and left without an answer.

A line announces an attempt, and one of three others ends it:

    {"sent": 7, "generation": 2, "candidate": "gen_2", "purpose": "select", "input": 900, "output": 1024, "usd": .01}
    {"done": 7, "input": 843, "output": 95, "cached": 0, "usd": .0012}    answered, at the provider's counts
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
    """An amount of budget. `usd` is in picodollars, so that sums are exact."""

    usd: int = 0
    tokens: int = 0
    calls: int = 0


class Account(NamedTuple):
    """The key that spending is kept under."""

    generation: int
    candidate: str
    purpose: str

    def pools(self) -> list[str]:
        """Return the pools that its calls are paid from: the run's `work` or `test`, and its generation's `gen_<n>`."""
        of_run = "test" if self.purpose == "test" else "work"
        return [of_run, f"gen_{self.generation}"] if self.generation else [of_run]


@dataclass(slots=True)
class Row:
    """The spending of one account. Calls without an answer count in all figures, at their reservation."""

    usd: int = 0  # picodollars; nothing for calls whose price is not known
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    calls: int = 0
    unanswered: int = 0
    unpriced: int = 0  # calls whose price is not known

    def add(self, other: "Row") -> None:
        """Add another account's figures."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def priced(self) -> bool:
        """Tells whether every call has a known price; if not, `usd` leaves those without one out."""
        return self.unpriced == 0

    @property
    def dollars(self) -> float:
        """The spending in US dollars."""
        return self.usd / PICO

    def usage(self) -> Usage:
        """Return dollars, tokens and calls."""
        return Usage(self.dollars, self.input_tokens + self.output_tokens, self.calls)


class _Attempt(NamedTuple):
    account: Account
    input: int
    output: int
    usd: int | None

    @property
    def amount(self) -> Amount:
        return Amount(self.usd or 0, self.input + self.output, 1)


@dataclass(slots=True)
class Book:
    """The sums of one ledger file, fed line by line: by the process that writes it, or from the file as it grows."""

    rows: dict[Account, Row] = field(default_factory=dict)
    under_way: dict[int, _Attempt] = field(default_factory=dict)
    _settled: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    _reserved: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    _read: int = 0  # bytes

    def add(self, line: Line) -> None:
        """Add one line of the file."""
        if "sent" in line:
            account = Account(line["generation"], line["candidate"], line["purpose"])
            attempt = _Attempt(account, line["input"], line["output"], _pico(line["usd"]))
            self.under_way[line["sent"]] = attempt
            self._move(self._reserved, attempt, attempt.amount, 1)
        elif "done" in line:
            self._done(line["done"], Row(0, line["input"], line["output"], line["cached"]), _pico(line["usd"]))
        elif "undone" in line:
            self._take(line["undone"])
        elif "unanswered" in line:
            self._unanswered(line["unanswered"])

    def abandon(self) -> None:
        """Count all attempts under way as unanswered: their process is gone and will not settle them."""
        for number in list(self.under_way):
            self._unanswered(number)

    def settled(self, pool: str, unit: int) -> int:
        """Return the settled amount of a pool, in picodollars, tokens or calls."""
        return self._settled[pool][unit] if pool in self._settled else 0

    def used(self, pool: str, unit: int) -> int:
        """Return the settled amount plus the reservations of calls under way."""
        return self.settled(pool, unit) + (self._reserved[pool][unit] if pool in self._reserved else 0)

    def catch_up(self, path: Path) -> None:
        """Read the lines appended since the last call; an incomplete last line waits for the next call."""
        try:
            with path.open("rb") as stream:
                stream.seek(self._read)
                data = stream.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return
        for line in parsed(data):
            self.add(line)
        self._read += len(data) + 1 if data else 0

    def _unanswered(self, number: int) -> None:
        attempt = self.under_way[number]
        self._done(number, Row(0, attempt.input, attempt.output, unanswered=1), attempt.usd)

    def _done(self, number: int, row: Row, usd: int | None) -> None:
        attempt = self._take(number)
        row.calls, row.usd, row.unpriced = 1, usd or 0, int(usd is None)
        self.rows.setdefault(attempt.account, Row()).add(row)
        self._move(self._settled, attempt, Amount(row.usd, row.input_tokens + row.output_tokens, 1), 1)

    def _take(self, number: int) -> _Attempt:
        attempt = self.under_way.pop(number)
        self._move(self._reserved, attempt, attempt.amount, -1)
        return attempt

    def _move(self, sums: dict[str, list[int]], attempt: _Attempt, amount: Amount, sign: int) -> None:
        for pool in attempt.account.pools():
            for unit, value in enumerate(amount):
                sums[pool][unit] += sign * value


def parsed(data: bytes) -> Iterator[Line]:
    """Yield the lines that are JSON objects. Skip lines cut by a full disk: those calls have no answer."""
    for raw in data.split(b"\n"):
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def _pico(usd: float | None) -> int | None:
    return None if usd is None else round(usd * PICO)
