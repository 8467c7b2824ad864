"""All spending of a run: RUN/ledger/, one file per process, a line before and after each attempt.

A line reaches the operating system before the call is sent, so that killing this process loses nothing. Limits are held
against what is spent and what is reserved: however many callers there are, what is settled never passes a limit, unless
a provider uses more than it was asked to.
"""

import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from sia_runner.config import Budget
from sia_runner.models.books import UNITS, Account, Amount, Book
from sia_runner.models.lease import Leases
from sia_runner.models.limits import Limits, Pot, Turns, refused
from sia_runner.models.prices import PICO, Rates
from sia_runner.models.protocol import BudgetSpent, Crowded, Grant, ModelsError, Role
from sia_runner.models.totals import Totals, add_up, read
from sia_runner.records import Usage

__all__ = ["Reservation", "RunLedger", "Totals", "read"]

_POLL = 0.5  # seconds until those who wait for what another process holds are woken to ask again


class RunLedger:
    """See protocol.Ledger. `folder` is RUN/ledger, made at the first call.

    `share`: how much of what is left this process takes at a time. 1.0: only this one may be alive, and open leases
    that it finds were left behind by a kill. Below: others may spend too, and what is not in use is given back.
    `held_back`: what the final test needs, asked before each call of another purpose; `budget.reserve` is the least.
    """

    def __init__(
        self,
        folder: Path,
        budget: Budget,
        rates: Mapping[Role, Rates | None],
        *,
        share: float = 1.0,
        held_back: Callable[[], Usage] | None = None,
    ) -> None:
        self._folder, self._rates, self._share = folder, dict(rates), share
        self._limits = Limits(budget)
        self._held_back = held_back or Usage
        self._name = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
        self._leases = Leases(folder, self._name)
        self._book, self._holds = Book(), dict[str, int]()
        self._turns: dict[int, Turns] = {}  # by id of the grant, where that has a limit of its own
        self._elsewhere: dict[str, int] = {}  # what other processes hold of each pot, as last seen
        self._lock, self._closed = threading.RLock(), False
        self._number, self._file, self._torn = 0, -1, False
        self._wakes: list[Callable[[], None]] = []
        self._alarm: threading.Timer | None = None

    def reserve(self, grant: Grant, *, input_tokens: int, output_tokens: int) -> "Reservation":
        rates = self._rates.get(grant.role)
        if rates is None and self._limits.in_dollars:
            raise ModelsError(f"prices of the {grant.role} role's model are not known, so budget.usd cannot be kept")
        usd = None if rates is None else rates.most(input_tokens, output_tokens)
        need = Amount(usd or 0, input_tokens + output_tokens, 1)
        account = Account(grant.generation, grant.candidate, grant.purpose)
        pots = self._limits.pots(account, need, self._held_back)
        with self._lock:
            self._open()
            turns = Turns(grant) if grant.calls is None else self._turns.setdefault(id(grant), Turns(grant))
            self._provide(pots, turns)
            number = self._announce(grant, account, input_tokens, output_tokens, usd)
            turns.under_way += 1
        return Reservation(self, number, account, turns, rates)

    def on_settled(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)

    def usage(self, *, generation: int | None = None, candidate: str | None = None) -> Usage:
        return self.totals().of(generation=generation, candidate=candidate).usage()

    def totals(self) -> Totals:
        """As `totals.read` gives them, without reading again what was read before."""
        with self._lock:
            if self._file < 0 and not self._closed:
                return read(self._folder)
            return add_up([self._book, *(lease.book for lease in self._leases.refresh())])

    def bury(self, jobs: Collection[str]) -> None:
        """Free what processes of these SLURM jobs held: the jobs are over."""
        self._leases.reclaim(all_dead=False, jobs=jobs)

    def close(self) -> None:
        """Give back what is not spent. Calls still under way count as calls without an answer. Safe to call twice."""
        with self._lock:
            if self._file < 0:
                return
            with self._leases.locked():
                self._leases.hold({}, closed=True)
            self._book.abandon()
            os.close(self._file)
            self._file, self._holds, self._closed = -1, {}, True
            if self._alarm:
                self._alarm.cancel()

    def ended(self, reservation: "Reservation", line: Mapping[str, object], *, turn: bool) -> None:
        """One attempt is over; `turn`: it counts as one of its grant's calls."""
        with self._lock:
            if self._file < 0:  # closed meanwhile: counted without an answer
                return
            self._write(line)
            reservation.turns.under_way -= 1
            reservation.turns.taken += turn
            self._tidy(reservation.account)
        for wake in self._wakes:
            wake()

    def _provide(self, pots: Sequence[Pot], turns: Turns) -> None:
        """Make sure that this process holds what is needed. Raises BudgetSpent or Crowded."""
        fault: BudgetSpent | Crowded | None = None
        if not all(self._at_hand(pot) for pot in pots):
            fault = self._ask_for(pots)
        if fault is None or (isinstance(fault, Crowded) and not turns.left):
            fault = turns.refused() or fault
        if fault:
            raise fault

    def _ask_for(self, pots: Sequence[Pot]) -> BudgetSpent | Crowded | None:
        with self._leases.locked() as others:
            for pot in pots:
                self._elsewhere[pot.key] = sum(lease.counts(name, pot.unit) for lease in others for name in pot.family)
            fault = refused(pots, self._book, others, self._elsewhere)
            if fault is None:
                self._take(pots)
        if isinstance(fault, Crowded):
            self._look_again_later()
        return fault

    def _at_hand(self, pot: Pot) -> bool:
        held = self._holds.get(pot.key, 0) - self._book.used(pot.name, pot.unit)
        return pot.need <= held and pot.need <= pot.ceiling - self._all_used(pot)

    def _all_used(self, pot: Pot) -> int:
        return self._elsewhere.get(pot.key, 0) + sum(self._book.used(name, pot.unit) for name in pot.family)

    def _take(self, pots: Iterable[Pot]) -> None:
        """Hold what is needed and a share of what is left; what the family's other pots do not use is let go."""
        for pot in pots:
            for name in pot.family:
                self._holds[f"{name}.{UNITS[pot.unit]}"] = self._book.used(name, pot.unit)
            left = pot.ceiling - self._all_used(pot) - pot.need
            self._holds[pot.key] += pot.need + int(self._share * left)
        self._leases.hold(self._holds)

    def _tidy(self, account: Account) -> None:
        """Tell the others what was used beyond what is held, and, when nothing is under way, what is not needed now."""
        idle = self._share < 1 and not self._book.under_way
        keys = self._holds if idle else [f"{name}.{unit}" for name in account.pots() for unit in UNITS]
        used = {key: self._book.used(*_pot(key)) for key in keys if key in self._holds}
        changed = {key: now for key, now in used.items() if now > self._holds[key] or (idle and now < self._holds[key])}
        if changed:
            self._holds |= changed
            with self._leases.locked():
                self._leases.hold(self._holds)

    def _announce(self, grant: Grant, account: Account, input_tokens: int, output_tokens: int, usd: int | None) -> int:
        self._number += 1
        line = {"sent": self._number, "at": round(time.time(), 3), "role": grant.role, **account._asdict()}
        tags = {"question": grant.question, "sample": grant.sample}
        line |= {name: value for name, value in tags.items() if value is not None}
        self._write(line | {"input": input_tokens, "output": output_tokens, "usd": dollars(usd)})
        return self._number

    def _write(self, line: Mapping[str, object]) -> None:
        """To the operating system, then to our own book: a kill in between counts too much rather than too little."""
        raw = b"\n" * self._torn + json.dumps(line, separators=(",", ":")).encode() + b"\n"
        self._torn = True  # until it is known to be whole
        if os.write(self._file, raw) != len(raw):
            raise OSError(f"{self._folder}: the disk took only a part of a line")
        self._torn = False
        self._book.add(line)

    def _open(self) -> None:
        """At the first call, not before: who only reads must not take a living process for a dead one."""
        if self._closed:
            raise RuntimeError("the ledger is closed")
        if self._file >= 0:
            return
        self._leases.reclaim(all_dead=self._share >= 1)
        with self._leases.locked():
            self._leases.hold(self._holds)
        path = self._folder / f"{self._name}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _look_again_later(self) -> None:
        """What another process gives back, nobody here is told of."""
        if any(self._elsewhere.values()) and not (self._alarm and self._alarm.is_alive()):
            self._alarm = threading.Timer(_POLL, lambda: [wake() for wake in self._wakes])
            self._alarm.daemon = True
            self._alarm.start()


class Reservation:
    """See protocol.Judged."""

    __slots__ = ("_ledger", "_number", "_rates", "account", "turns")

    def __init__(self, ledger: RunLedger, number: int, account: Account, turns: Turns, rates: Rates | None) -> None:
        self._ledger, self._number, self._rates = ledger, number, rates
        self.account, self.turns = account, turns

    def settle(
        self, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0, written_tokens: int = 0
    ) -> float | None:
        """`input_tokens`: all of them; `cached_tokens` (read from the provider's cache) and `written_tokens` (put into
        it) are parts of these. No tokens at all: the provider turned the call down, which is no turn of the grant's."""
        tokens = (input_tokens, output_tokens, cached_tokens, written_tokens)
        usd = None if self._rates is None else dollars(self._rates.cost(*tokens))
        line = {
            "done": self._number,
            "input": input_tokens,
            "output": output_tokens,
            "cached": cached_tokens,
            "usd": usd,
        }
        self._ledger.ended(self, line, turn=input_tokens + output_tokens > 0)
        return usd

    def unanswered(self, *, sent: bool) -> None:
        self._ledger.ended(self, {"unanswered" if sent else "undone": self._number}, turn=sent)


def dollars(pico: int | None) -> float | None:
    return None if pico is None else pico / PICO


def _pot(key: str) -> tuple[str, int]:
    name, _, unit = key.rpartition(".")
    return name, UNITS.index(unit)
