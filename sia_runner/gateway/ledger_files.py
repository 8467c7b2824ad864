"""The files of RUN/ledger: one ledger file per process with its sums, and the register of budget allowances.

A line of a ledger file announces an attempt, and one of three others ends it:

    {"sent": 7, "generation": 2, "candidate": "gen_2", "purpose": "select", "input": 900, "output": 1024, "usd": .01}
    {"done": 7, "input": 843, "output": 95, "cached": 0, "usd": .0012}    answered, at the provider's counts
    {"undone": 7}          it never reached the provider
    {"unanswered": 7}      it may have been charged for: counted as reserved

The register leases.jsonl says which share of the budget each process may spend; it is changed under one file lock:

    {"lease": "20261121T080000-1f2e3d4c", "process": {"host": …, "pid": …}, "holds": {"work.usd": 1200000000000}}

Only its process may spend an allowance; what counts against a limit is the larger of the allowance and the sums of the
process's own file. A later line of an allowance replaces the earlier one. Whoever finds an allowance whose process is
gone closes it; then only its file counts.
"""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sia_runner.gateway.prices import PICO
from sia_runner.records import Usage
from sia_runner.store import lease
from sia_runner.store.files import LineReader, parse_object

UNITS = ("usd", "tokens", "calls")
_WHOLE_FILE = 1 << 62  # bytes
REGISTER = "leases.jsonl"


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
class AccountTotals:
    """The spending of one account. Calls without an answer count in all figures, at their reservation."""

    usd: int = 0  # picodollars; nothing for calls whose price is not known
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    calls: int = 0
    unanswered: int = 0
    unpriced: int = 0  # calls whose price is not known

    def add(self, other: "AccountTotals") -> None:
        """Add another account's figures."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def tokens(self) -> int:
        """The tokens of input and output."""
        return self.input_tokens + self.output_tokens

    @property
    def priced(self) -> bool:
        """Tells whether every call has a known price; if not, `usd` leaves those without one out."""
        return self.unpriced == 0

    @property
    def dollars(self) -> float:
        """The spending in US dollars."""
        return self.usd / PICO

    def to_json(self) -> dict[str, float | None]:
        """Return what was spent on models. `usd` is null where any call has no known price, never zero for it."""
        names = ("tokens", "calls", "input_tokens", "output_tokens", "unanswered")
        usd = round(self.dollars, 9) if self.priced else None
        return {"usd": usd} | {name: getattr(self, name) for name in names}

    def usage(self) -> Usage:
        """Return dollars, tokens and calls."""
        return Usage(self.dollars, self.tokens, self.calls)


@dataclass(slots=True)
class LedgerFile:
    """The sums of one ledger file, fed line by line: by the process that writes it, or from the file as it grows.

    `under_way`: the attempts without an end, as they count if that never comes.
    `settled`, `reserved`: "pool.unit" -> picodollars, tokens or calls; kept (`keeps_pools`) by processes that spend.
    """

    rows: dict[Account, AccountTotals] = field(default_factory=dict)
    under_way: dict[int, tuple[Account, AccountTotals]] = field(default_factory=dict)
    settled: Counter[str] = field(default_factory=Counter)
    reserved: Counter[str] = field(default_factory=Counter)
    keeps_pools: bool = True

    def add(self, line: Mapping[str, Any]) -> None:
        """Add one line of the file."""
        if "sent" in line:
            account = Account(line["generation"], line["candidate"], line["purpose"])
            row = _row_of(line, unanswered=1)
            self.under_way[line["sent"]] = account, row
            self._move(self.reserved, account, row, 1)
        elif "done" in line:
            self._settle(line["done"], _row_of(line))
        elif "undone" in line:
            self._take(line["undone"])
        elif "unanswered" in line:
            self._settle(line["unanswered"])

    def abandon(self) -> None:
        """Count all attempts under way as unanswered: their process is gone and will not settle them."""
        for number in list(self.under_way):
            self._settle(number)

    def used(self, key: str) -> int:
        """Return the settled amount plus the reservations of calls under way."""
        return self.settled[key] + self.reserved[key]

    def catch_up(self, lines: LineReader) -> None:
        """Add the lines appended since the last call. Skip those cut by a full disk: those calls have no answer."""
        for line in lines.fresh(_WHOLE_FILE):
            self.add(parse_object(line.data) or {})

    def _settle(self, number: int, totals: AccountTotals | None = None) -> None:
        """Add what an attempt took; None if it was not answered."""
        account, unanswered = self._take(number)
        row = totals or unanswered
        self.rows.setdefault(account, AccountTotals()).add(row)
        self._move(self.settled, account, row, 1)

    def _take(self, number: int) -> tuple[Account, AccountTotals]:
        account, row = self.under_way.pop(number)
        self._move(self.reserved, account, row, -1)
        return account, row

    def _move(self, sums: Counter[str], account: Account, row: AccountTotals, sign: int) -> None:
        for pool in account.pools() if self.keeps_pools else ():
            for unit in UNITS:
                sums[f"{pool}.{unit}"] += sign * getattr(row, unit)


def _row_of(line: Mapping[str, Any], *, unanswered: int = 0) -> AccountTotals:
    usd, tokens = line["usd"], (line["input"], line["output"], line.get("cached", 0))
    return AccountTotals(0 if usd is None else round(usd * PICO), *tokens, 1, unanswered, int(usd is None))


@dataclass(slots=True)
class Allowance:
    """The share of the budget that one process may spend."""

    process: Mapping[str, Any]
    lines: LineReader  # of its file
    holds: Mapping[str, int] = field(default_factory=dict)  # "pool.unit" -> picodollars, tokens, calls
    closed: bool = False
    final: bool = False  # closed, and its file read to the end
    ledger_file: LedgerFile = field(default_factory=LedgerFile)

    def counts(self, key: str) -> int:
        """Return what counts against a pool's limit: the larger of the allowance and the use."""
        return max(self.holds.get(key, 0), self.ledger_file.used(key))


class AllowanceRegister:
    """The register of all allowances of a run, as far as it was read, without this process's own."""

    def __init__(self, folder: Path, own_name: str = "") -> None:
        self._folder, self._path, self._own_name = folder, folder / REGISTER, own_name
        self._lines = LineReader(folder, REGISTER)
        self._others: dict[str, Allowance] = {}

    def refresh(self) -> Iterable[Allowance]:
        """Read the register and the other processes' files to their end; return the other allowances."""
        for row in self._lines.fresh(_WHOLE_FILE):
            line = parse_object(row.data)
            if line and line["lease"] != self._own_name:
                name = line["lease"]
                lines = LineReader(self._folder, f"{name}.jsonl")
                allowance = self._others.setdefault(name, Allowance(line["process"], lines))
                allowance.holds, allowance.closed = line["holds"], line["closed"]
        for allowance in self._others.values():
            if not allowance.final:
                allowance.final = allowance.closed
                allowance.ledger_file.catch_up(allowance.lines)
            if allowance.final:
                allowance.ledger_file.abandon()
        return self._others.values()

    @contextmanager
    def locked(self) -> Iterator[Iterable[Allowance]]:
        """Lock the register against other processes and yield the other allowances."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield self.refresh()

    def hold(self, holds: Mapping[str, int], *, closed: bool = False) -> None:
        """Write this process's new allowance. Call it only inside `locked`."""
        process = lease.process_identity()
        self._append({"lease": self._own_name, "process": process, "holds": dict(holds), "closed": closed})

    def reclaim(self, *, all_dead: bool, jobs: Collection[str] = ()) -> None:
        """Close the allowances whose process is gone: `all_dead`, seen to have ended, or of the SLURM `jobs`."""
        if not self._path.exists():
            return
        with self.locked():
            for name, allowance in self._others.items():
                process = allowance.process
                if not allowance.closed and (all_dead or has_ended(process) or process.get("job") in jobs):
                    self._append({"lease": name, "process": dict(process), "holds": {}, "closed": True})
            self.refresh()

    def _append(self, line: Mapping[str, Any]) -> None:
        """Append a line; end an incomplete last line, cut by a full disk, first."""
        with self._path.open("ab+") as stream:
            stream.seek(max(0, stream.tell() - 1))
            incomplete = stream.read(1) not in (b"", b"\n")
            stream.write(b"\n" * incomplete + json.dumps(line).encode() + b"\n")


def has_ended(process: Mapping[str, Any]) -> bool:
    """Return True if the process certainly ended; False where it runs or cannot be checked from here."""
    current = lease.process_namespace()
    if process.get("host") != current["host"]:  # it may be an earlier start of this same SLURM job
        return process.get("job") is not None and process["job"] == os.environ.get("SLURM_JOB_ID")
    if process.get("boot") != current["boot"]:
        return True  # this machine has been rebooted since
    return process.get("space") == current["space"] and lease.process_start_time(process["pid"]) != process["started"]


@dataclass(frozen=True, slots=True)
class RunTotals:
    """The spending per generation, candidate and purpose. `in_flight`: calls under way in processes that live."""

    rows: Mapping[Account, AccountTotals] = field(default_factory=dict)
    in_flight: int = 0

    @property
    def total(self) -> AccountTotals:
        """The spending of all accounts."""
        return self.of()

    def by(self, key: Callable[[Account], Any]) -> dict[Any, AccountTotals]:
        """Return the sum of the accounts with the same `key`, ordered by it."""
        sums: dict[Any, AccountTotals] = {}
        for account, row in self.rows.items():
            sums.setdefault(key(account), AccountTotals()).add(row)
        return dict(sorted(sums.items()))

    def of(
        self, *, generation: int | None = None, candidate: str | None = None, purpose: str | None = None
    ) -> AccountTotals:
        """Return the sum of the accounts that match all given criteria."""
        criteria = (generation, candidate, purpose)
        result = AccountTotals()
        for account, row in self.rows.items():
            if all(want is None or want == have for want, have in zip(criteria, account, strict=True)):
                result.add(row)
        return result


def read_totals(folder: Path) -> RunTotals:
    """Return the totals of RUN/ledger, of all processes and resumes. Writes nothing; no folder means no spending."""
    allowances = list(AllowanceRegister(folder).refresh())
    for allowance in allowances:
        if has_ended(allowance.process):
            allowance.ledger_file.abandon()
    return add_up([allowance.ledger_file for allowance in allowances])


def add_up(ledger_files: Iterable[LedgerFile], *, alive: bool = True) -> RunTotals:
    """Add the sums of several ledger files up. Unless their processes are `alive`, calls under way are unanswered."""
    rows: dict[Account, AccountTotals] = {}
    in_flight = 0
    for ledger_file in ledger_files:
        parts = list(ledger_file.rows.items())
        if alive:
            in_flight += len(ledger_file.under_way)
        else:
            parts += ledger_file.under_way.values()
        for account, row in parts:
            rows.setdefault(account, AccountTotals()).add(row)
    return RunTotals(rows, in_flight)
