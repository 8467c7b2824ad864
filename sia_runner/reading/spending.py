"""The limits of a run and what it spent, from its ledger, also between two generations."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sia_runner.models.books import Book, Row, parsed
from sia_runner.reading.files import listing
from sia_runner.reading.lines import Lines

UNITS = ("usd", "tokens", "calls", "minutes")
_REGISTER = "leases.jsonl"
_SLICE = 1 << 20  # bytes read between two checks of the deadline
Json = dict[str, Any]


class _Rows(Book):
    """A ledger reader without the per-budget sums, which only processes that spend need: half the time."""

    def _move(self, *_: Any, **__: Any) -> None:
        pass


class Spending:
    """The sums of RUN/ledger as it grows.

    Calls that were sent and not answered are counted as under way. Once the run's process is gone they count at what
    was reserved for them, as the run itself counts them.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._books: dict[str, tuple[Lines, Book]] = {}

    def refresh(self, seconds: float = 0.1) -> bool:
        """Read on for about `seconds`. Return True once everything on disk has been added up."""
        deadline = time.monotonic() + seconds
        for entry in listing(self._run, "ledger"):
            if entry.kind == "file" and entry.name.endswith(".jsonl") and entry.name != _REGISTER:
                name = f"ledger/{entry.name}"
                self._books.setdefault(name, (Lines(self._run, name), _Rows()))
        for name in self._books:
            while self._slice(name):
                if time.monotonic() > deadline:
                    return False
        return True

    def _slice(self, name: str) -> bool:
        """Read a part of what is new in one file. Return True if there was anything."""
        lines, book = self._books[name]
        before = lines.offset
        for line in lines.fresh(_SLICE):
            if lines.restarted:
                book = _Rows()
                self._books[name] = (lines, book)
                lines.restarted = False
            _feed(book, line.data)
        return lines.offset != before

    def totals(self, *, alive: bool) -> Json:
        """Return the sums in usd, tokens and calls.

        The keys are ``{"total": …, "generations": {n: …}, "purposes": {name: …}, "in_flight"}``.
        """
        total, by_generation, by_purpose = Row(), dict[int, Row](), dict[str, Row]()
        in_flight = 0
        for _, book in self._books.values():
            in_flight += len(book.under_way) if alive else 0
            for account, row in _rows(book, alive):
                total.add(row)
                by_generation.setdefault(account.generation, Row()).add(row)
                by_purpose.setdefault(str(account.purpose), Row()).add(row)
        return {
            "total": _plain(total),
            "generations": {n: _plain(row) for n, row in sorted(by_generation.items()) if n},
            "purposes": {name: _plain(row) for name, row in sorted(by_purpose.items())},
            "in_flight": in_flight,
        }


def limits(config: Mapping[str, Any], resumed: list[str]) -> Json:
    """Return ``{"usd": 5.0, …}``, None for no limit: the config's, with the overrides of resumes (``budget.usd=9``)."""
    budget = config.get("budget")
    result: Json = {unit: _number(str(budget.get(unit))) if isinstance(budget, dict) else None for unit in UNITS}
    for override in resumed:
        key, _, value = override.partition("=")
        unit = key.removeprefix("budget.")
        if unit != key and unit in UNITS:
            result[unit] = _number(value)
    return result


def _feed(book: Book, data: bytes) -> None:
    for line in parsed(data):
        try:
            book.add(line)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # the file is damaged: count the other lines


def _rows(book: Book, alive: bool) -> list[tuple[Any, Row]]:
    rows = list(book.rows.items())
    if not alive:
        rows += [(attempt.account, _reserved(attempt)) for attempt in book.under_way.values()]
    return rows


def _reserved(attempt: Any) -> Row:
    return Row(
        attempt.usd or 0, attempt.input, attempt.output, calls=1, unanswered=1, unpriced=int(attempt.usd is None)
    )


def _plain(row: Row) -> Json:
    usd = round(row.dollars, 9) if row.priced else None
    tokens = row.input_tokens + row.output_tokens
    return {"usd": usd, "tokens": tokens, "calls": row.calls, "unanswered": row.unanswered}


def _number(text: str) -> float | None:
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None
