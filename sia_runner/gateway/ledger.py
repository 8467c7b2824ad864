"""The ledger records all spending of a run and holds it against the budget.

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
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from sia_runner.config.experiment import BudgetConfig, SpendingLimits
from sia_runner.gateway.ledger_files import (
    UNITS,
    Account,
    Allowance,
    AllowanceRegister,
    Amount,
    LedgerFile,
    RunTotals,
    add_up,
    read_totals,
)
from sia_runner.gateway.prices import PICO, Rates
from sia_runner.records import Usage
from sia_runner.wire.grants import BudgetFullyReserved, BudgetSpent, Grant, ModelsError, Role, Scope

_OF_RUN = ("work", "test")


@dataclass(frozen=True, slots=True)
class BudgetPool:
    """One limited amount that a call is paid from, in picodollars, tokens or calls."""

    scope: Scope
    name: str  # work | test | gen_<n>
    unit: int
    need: int
    limit: int
    reserve: int  # part of the limit, for the final test

    @property
    def key(self) -> str:
        """The pool's name in an allowance, such as `work.usd`."""
        return f"{self.name}.{UNITS[self.unit]}"

    @property
    def family(self) -> Sequence[str]:
        """The names of all pools that share this limit."""
        return _OF_RUN if self.scope == "run" else (self.name,)

    @property
    def ceiling(self) -> int:
        """The limit without the reserve."""
        return self.limit - self.reserve


class BudgetLimits:
    """The budget, in whole picodollars, tokens and calls."""

    def __init__(self, budget: BudgetConfig) -> None:
        self._run, self._generation, self._reserve = _amounts(budget), _amounts(budget.generation), budget.test_reserve
        self.in_dollars = budget.usd is not None or budget.generation.usd is not None

    def pools(self, account: Account, need: Amount, held_back: Callable[[], Usage]) -> list[BudgetPool]:
        """Return the pools that a call of this account is paid from. Only `test` may use the final test's reserve."""
        of_run, *of_generation = account.pools()
        reserve = Amount()
        if self._run and of_run != "test":
            measured = held_back()
            reserve = Amount(ceil(measured.usd * PICO), measured.tokens, measured.calls)
        pools = [self._of_run(of_run, unit, need, reserve) for unit in self._run]
        for name in of_generation:
            pools += [BudgetPool("generation", name, u, need[u], limit, 0) for u, limit in self._generation.items()]
        return pools

    def _of_run(self, name: str, unit: int, need: Amount, reserve: Amount) -> BudgetPool:
        limit = self._run[unit]
        share = 0 if name == "test" else ceil(self._reserve * limit)
        return BudgetPool("run", name, unit, need[unit], limit, max(share, reserve[unit]))


@dataclass(slots=True)
class GrantCalls:
    """The calls that a grant with a limit of its own has used. A repeated step has a new grant and starts anew."""

    grant: Grant
    finished: int = 0
    under_way: int = 0

    @property
    def available(self) -> bool:
        """Tells whether the grant may make another call."""
        return self.grant.calls is None or self.finished + self.under_way < self.grant.calls

    def refusal(self) -> BudgetSpent | BudgetFullyReserved | None:
        """Return why the grant may make no other call; None where it may."""
        grant = self.grant
        if self.available:
            return None
        if self.under_way:
            return BudgetFullyReserved(
                f"{grant.candidate}: all {grant.calls} calls of this {grant.purpose} are made or under way"
            )
        return BudgetSpent("grant", f"{grant.candidate}: all {grant.calls} calls of this {grant.purpose} are made")


def budget_refusal(
    pools: Iterable[BudgetPool], own: LedgerFile, others: Iterable[Allowance], held_by_others: Mapping[str, int]
) -> BudgetSpent | BudgetFullyReserved | None:
    """Return why a call cannot be sent, or None; BudgetFullyReserved where calls under way may still free enough."""
    contended: BudgetFullyReserved | None = None
    for pool in pools:
        settled = sum(
            file.settled(name, pool.unit)
            for file in (own, *(other.ledger_file for other in others))
            for name in pool.family
        )
        if settled + pool.need > pool.ceiling:
            return BudgetSpent(pool.scope, _spent_line(pool, settled))
        used = held_by_others[pool.key] + sum(own.used(name, pool.unit) for name in pool.family)
        if used + pool.need > pool.ceiling:
            contended = BudgetFullyReserved(_spent_line(pool, settled) + "; wait until calls under way are settled")
    return contended


def _spent_line(pool: BudgetPool, settled: int) -> str:
    key = "budget" if pool.scope == "run" else "budget.generation"
    reserve = f", {_amount_text(pool.reserve, pool.unit)} kept for the final test" if pool.reserve else ""
    return (
        f"{key}.{UNITS[pool.unit]}={_amount_text(pool.limit, pool.unit)}: "
        f"{_amount_text(settled, pool.unit)} spent{reserve}; "
        f"the next call may take {_amount_text(pool.need, pool.unit)}"
    )


def _amount_text(amount: int, unit: int) -> str:
    return f"{amount / PICO:.6g}" if UNITS[unit] == "usd" else str(amount)


def _amounts(limits: SpendingLimits) -> dict[int, int]:
    """Return unit -> limit, without the units that have no limit."""
    usd = None if limits.usd is None else int(limits.usd * PICO)
    values = enumerate((usd, limits.tokens, limits.calls))
    return {unit: limit for unit, limit in values if limit is not None}


_POLL = 0.5  # seconds until calls that wait for another process's allowance ask again


class RunLedger:
    """The spending of a run, checked against its budget. `folder` is RUN/ledger, made at the first call.

    `share`: the part of the remaining budget that this process takes at a time. With 1.0 it is the only process alive,
    and open allowances are left over from a kill. Below 1.0 other processes may spend too, and unused budget is given
    back.
    `held_back`: the final test's need, read before each call of another purpose; `budget.test_reserve` is the minimum.
    """

    def __init__(
        self,
        folder: Path,
        budget: BudgetConfig,
        rates: Mapping[Role, Rates | None],
        *,
        share: float = 1.0,
        held_back: Callable[[], Usage] | None = None,
    ) -> None:
        self._folder, self._rates, self._share = folder, dict(rates), share
        self._limits = BudgetLimits(budget)
        self._held_back = held_back or Usage
        self._name = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
        self._register = AllowanceRegister(folder, self._name)
        self._own_file, self._holds = LedgerFile(), dict[str, int]()
        self._grant_calls: dict[int, GrantCalls] = {}  # by id(grant), for grants with a limit of their own
        self._held_by_others: dict[str, int] = {}  # by pool, as last read
        self._lock, self._closed = threading.RLock(), False
        self._number, self._file, self._torn = 0, -1, False
        self._wakes: list[Callable[[], None]] = []
        self._retry_timer: threading.Timer | None = None

    def reserve(self, grant: Grant, *, input_tokens: int, output_tokens: int) -> "Reservation":
        """Reserve the most that one attempt may use, before it is sent.

        Thread-safe; takes well below a millisecond. Every attempt of a call is announced, since each is a call that the
        provider sees. Raises BudgetSpent, or BudgetFullyReserved, or ModelsError where a price is needed and not known.
        """
        rates = self._rates.get(grant.role)
        if rates is None and self._limits.in_dollars:
            raise ModelsError(
                f"prices of the {grant.role} role's model are not known, so budget.usd cannot be enforced"
            )
        usd = None if rates is None else rates.upper_bound(input_tokens, output_tokens)
        need = Amount(usd or 0, input_tokens + output_tokens, 1)
        account = Account(grant.generation, grant.candidate, grant.purpose)
        pools = self._limits.pools(account, need, self._held_back)
        with self._lock:
            self._open()
            grant_calls = (
                GrantCalls(grant) if grant.calls is None else self._grant_calls.setdefault(id(grant), GrantCalls(grant))
            )
            self._ensure_held(pools, grant_calls)
            number = self._announce(grant, account, input_tokens, output_tokens, usd)
            grant_calls.under_way += 1
        return Reservation(self, number, account, grant_calls, rates)

    def on_settled(self, wake: Callable[[], None]) -> None:
        """Call `wake`, from any thread, whenever a reservation ends, for those who wait for budget."""
        self._wakes.append(wake)

    def usage(self, *, generation: int | None = None, candidate: str | None = None) -> Usage:
        """Return the spending so far, of all processes and resumes; unanswered attempts count as reserved."""
        return self.totals().of(generation=generation, candidate=candidate).usage()

    def totals(self) -> RunTotals:
        """Return the same as `read_totals`, without reading again what was read before."""
        with self._lock:
            if self._file < 0 and not self._closed:
                return read_totals(self._folder)
            return add_up([self._own_file, *(allowance.ledger_file for allowance in self._register.refresh())])

    def release_allowances(self, jobs: Collection[str]) -> None:
        """Free the unspent allowances of SLURM jobs that are over."""
        self._register.reclaim(all_dead=False, jobs=jobs)

    def close(self) -> None:
        """Give back what is not spent. Calls under way count as unanswered. Safe to call twice."""
        with self._lock:
            if self._file < 0:
                return
            with self._register.locked():
                self._register.hold({}, closed=True)
            self._own_file.abandon()
            os.close(self._file)
            self._file, self._holds, self._closed = -1, {}, True
            if self._retry_timer:
                self._retry_timer.cancel()

    def finish_attempt(self, reservation: "Reservation", line: Mapping[str, object], *, counts_as_call: bool) -> None:
        """End one attempt; `counts_as_call`: it counts as one of its grant's calls."""
        with self._lock:
            if self._file < 0:  # closed meanwhile: counted as unanswered
                return
            self._write(line)
            reservation.grant_calls.under_way -= 1
            reservation.grant_calls.finished += counts_as_call
            self._release_unused(reservation.account)
        for wake in self._wakes:
            wake()

    def _ensure_held(self, pools: Sequence[BudgetPool], grant_calls: GrantCalls) -> None:
        """Make sure that this process holds what is needed. Raises BudgetSpent or BudgetFullyReserved."""
        fault: BudgetSpent | BudgetFullyReserved | None = None
        if not all(self._is_available(pool) for pool in pools):
            fault = self._acquire(pools)
        if fault is None or (isinstance(fault, BudgetFullyReserved) and not grant_calls.available):
            fault = grant_calls.refusal() or fault
        if fault:
            raise fault

    def _acquire(self, pools: Sequence[BudgetPool]) -> BudgetSpent | BudgetFullyReserved | None:
        with self._register.locked() as others:
            for pool in pools:
                self._held_by_others[pool.key] = sum(
                    allowance.counts(name, pool.unit) for allowance in others for name in pool.family
                )
            fault = budget_refusal(pools, self._own_file, others, self._held_by_others)
            if fault is None:
                self._hold(pools)
        if isinstance(fault, BudgetFullyReserved):
            self._schedule_retry()
        return fault

    def _is_available(self, pool: BudgetPool) -> bool:
        available = self._holds.get(pool.key, 0) - self._own_file.used(pool.name, pool.unit)
        return pool.need <= available and pool.need <= pool.ceiling - self._all_used(pool)

    def _all_used(self, pool: BudgetPool) -> int:
        return self._held_by_others.get(pool.key, 0) + sum(self._own_file.used(name, pool.unit) for name in pool.family)

    def _hold(self, pools: Iterable[BudgetPool]) -> None:
        """Hold what is needed and a share of the remainder; release what the family's other pools do not use."""
        for pool in pools:
            for name in pool.family:
                self._holds[f"{name}.{UNITS[pool.unit]}"] = self._own_file.used(name, pool.unit)
            remainder = pool.ceiling - self._all_used(pool) - pool.need
            self._holds[pool.key] += pool.need + int(self._share * remainder)
        self._register.hold(self._holds)

    def _release_unused(self, account: Account) -> None:
        """Publish use beyond the allowance and, when no call is under way, release what is not used."""
        idle = self._share < 1 and not self._own_file.under_way
        keys = self._holds if idle else [f"{name}.{unit}" for name in account.pools() for unit in UNITS]
        used = {key: self._own_file.used(*_pool_of(key)) for key in keys if key in self._holds}
        changed = {
            key: amount
            for key, amount in used.items()
            if amount > self._holds[key] or (idle and amount < self._holds[key])
        }
        if changed:
            self._holds |= changed
            with self._register.locked():
                self._register.hold(self._holds)

    def _announce(self, grant: Grant, account: Account, input_tokens: int, output_tokens: int, usd: int | None) -> int:
        self._number += 1
        line = {"sent": self._number, "at": round(time.time(), 3), "role": grant.role, **account._asdict()}
        tags = {"question": grant.question, "sample": grant.sample}
        line |= {name: value for name, value in tags.items() if value is not None}
        self._write(line | {"input": input_tokens, "output": output_tokens, "usd": to_dollars(usd)})
        return self._number

    def _write(self, line: Mapping[str, object]) -> None:
        """Write to the operating system, then add to our sums: after a kill in between we count too much."""
        raw = b"\n" * self._torn + json.dumps(line, separators=(",", ":")).encode() + b"\n"
        self._torn = True  # until the whole line is written
        if os.write(self._file, raw) != len(raw):
            raise OSError(f"{self._folder}: only a part of a line was written")
        self._torn = False
        self._own_file.add(line)

    def _open(self) -> None:
        """Open our file at the first call: a process that only reads must not reclaim a living process's budget."""
        if self._closed:
            raise RuntimeError("the ledger is closed")
        if self._file >= 0:
            return
        self._register.reclaim(all_dead=self._share >= 1)
        with self._register.locked():
            self._register.hold(self._holds)
        path = self._folder / f"{self._name}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _schedule_retry(self) -> None:
        """Poll: other processes do not notify us when they release budget."""
        if any(self._held_by_others.values()) and not (self._retry_timer and self._retry_timer.is_alive()):
            self._retry_timer = threading.Timer(_POLL, lambda: [wake() for wake in self._wakes])
            self._retry_timer.daemon = True
            self._retry_timer.start()


class Reservation:
    """A budget reservation for one attempt, to be settled once."""

    __slots__ = ("_ledger", "_number", "_rates", "account", "grant_calls")

    def __init__(
        self, ledger: RunLedger, number: int, account: Account, grant_calls: GrantCalls, rates: Rates | None
    ) -> None:
        self._ledger, self._number, self._rates = ledger, number, rates
        self.account, self.grant_calls = account, grant_calls

    def settle(
        self, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0, written_tokens: int = 0
    ) -> float | None:
        """Settle an answered attempt and return its price in US dollars; None where prices are not known.

        `input_tokens` includes `cached_tokens` (read from the provider's cache) and `written_tokens` (put into it).
        No tokens at all: the provider turned the call down, and it does not count as one of the grant's calls.
        """
        tokens = (input_tokens, output_tokens, cached_tokens, written_tokens)
        usd = None if self._rates is None else to_dollars(self._rates.cost(*tokens))
        line = {
            "done": self._number,
            "input": input_tokens,
            "output": output_tokens,
            "cached": cached_tokens,
            "usd": usd,
        }
        self._ledger.finish_attempt(self, line, counts_as_call=input_tokens + output_tokens > 0)
        return usd

    def unanswered(self, *, may_be_charged: bool) -> None:
        """End an attempt without an answer: it stays counted as reserved where it `may_be_charged`, else is undone."""
        self._ledger.finish_attempt(
            self, {"unanswered" if may_be_charged else "undone": self._number}, counts_as_call=may_be_charged
        )


def to_dollars(pico: int | None) -> float | None:
    """Convert picodollars to US dollars."""
    return None if pico is None else pico / PICO


def _pool_of(key: str) -> tuple[str, int]:
    name, _, unit = key.rpartition(".")
    return name, UNITS.index(unit)
