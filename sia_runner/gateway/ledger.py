"""The ledger records all spending of a run and holds it against the budget.

A line reaches the operating system before the call is sent. Limits are held against what is spent and what is reserved:
what is settled never passes a limit, unless a provider uses more than it was asked to.
"""

import json
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from sia_runner.config.experiment import BudgetConfig, SpendingLimits
from sia_runner.gateway.ledger_files import (
    UNITS,
    Account,
    AccountTotals,
    AllowanceRegister,
    LedgerFile,
    RunTotals,
    add_up,
    read_totals,
)
from sia_runner.gateway.prices import PICO, Rates
from sia_runner.records import Usage
from sia_runner.wire.grants import BudgetFullyReserved, BudgetSpent, Grant, ModelKey, ModelsError, Scope

_POLL = 0.5  # seconds until calls that wait for another process's allowance ask again


@dataclass(frozen=True, slots=True)
class _BudgetPool:
    """One limited amount that a call is paid from, in picodollars, tokens or calls."""

    scope: Scope
    key: str  # in an allowance, such as `work.usd`
    family: Sequence[str]  # the keys of all pools that share this limit
    need: int
    limit: int
    reserve: int = 0  # part of the limit, for the final test

    @property
    def ceiling(self) -> int:
        return self.limit - self.reserve

    def spent_line(self, settled: int) -> str:
        unit = self.key.rpartition(".")[2]
        limit, spent, kept, need = (
            f"{amount / PICO:.6g}" if unit == "usd" else str(amount)
            for amount in (self.limit, settled, self.reserve, self.need)
        )
        section = "budget" if self.scope == "run" else "budget.generation"
        reserve = f", {kept} kept for the final test" if self.reserve else ""
        return f"{section}.{unit}={limit}: {spent} spent{reserve}; the next call may take {need}"


def _limits_of(limits: SpendingLimits) -> dict[str, int]:
    """Return unit -> limit, in picodollars, tokens and calls, without the units that have no limit."""
    usd = None if limits.usd is None else int(limits.usd * PICO)
    values = {"usd": usd, "tokens": limits.tokens, "calls": limits.calls}
    return {unit: limit for unit, limit in values.items() if limit is not None}


@dataclass(slots=True)
class GrantCalls:
    """The calls that a grant with a limit of its own has used. A repeated step has a new grant and starts anew."""

    grant: Grant
    finished: int = 0
    under_way: int = 0

    def refusal(self) -> BudgetSpent | BudgetFullyReserved | None:
        """Return why the grant may make no other call; None where it may."""
        grant = self.grant
        if grant.calls is None or self.finished + self.under_way < grant.calls:
            return None
        line = f"{grant.candidate}: all {grant.calls} calls of this {grant.purpose} are made"
        return BudgetFullyReserved(f"{line} or under way") if self.under_way else BudgetSpent("grant", line)


class RunLedger:
    """The spending of a run, checked against its budget. `folder` is RUN/ledger, made at the first call.

    `share`: the part of the remaining budget that this process takes at a time. With 1.0 it is the only process alive,
    and open allowances are left over from a kill. Below 1.0 others may spend too, and unused budget is given back.
    `held_back`: the final test's need, read before each call of another purpose; `budget.test_reserve` is the minimum.
    """

    def __init__(
        self,
        folder: Path,
        budget: BudgetConfig,
        rates: Mapping[ModelKey, Rates | None],
        *,
        share: float = 1.0,
        held_back: Callable[[], Usage] | None = None,
    ) -> None:
        self._folder, self._budget, self._rates, self._share = folder, budget, dict(rates), share
        self._run_limits, self._generation_limits = _limits_of(budget), _limits_of(budget.generation)
        self._held_back = held_back or Usage
        self._name = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid.uuid4().hex[:8]}"
        self._register = AllowanceRegister(folder, self._name)
        self._own_file, self._holds = LedgerFile(), dict[str, int]()
        self._grant_calls: dict[int, GrantCalls] = {}  # by id(grant), for grants with a limit of their own
        self._held_by_others: Counter[str] = Counter()  # by pool, as last read
        self._lock, self._closed = threading.RLock(), False
        self._number, self._file, self._torn = 0, -1, False
        self._wakes: list[Callable[[], None]] = []
        self._retry_timer: threading.Timer | None = None

    def reserve(self, grant: Grant, *, input_tokens: int, output_tokens: int) -> "Reservation":
        """Reserve the most that one attempt, a call that the provider sees, may use, before it is sent. Thread-safe.

        Raises BudgetSpent, or BudgetFullyReserved, or ModelsError where a price is needed and not known.
        """
        rates = self._rates.get(grant.model_key)
        if rates is None and "usd" in self._run_limits | self._generation_limits:
            why = "are not known, so budget.usd cannot be enforced"
            raise ModelsError(f"prices of the {grant.role} role's model {why}")
        usd = None if rates is None else rates.upper_bound(input_tokens, output_tokens)
        account = Account(grant.generation, grant.candidate, grant.purpose)
        pools = self._pools(account, AccountTotals(usd or 0, input_tokens, output_tokens, calls=1))
        tags = {"question": grant.question, "sample": grant.sample}
        line = {"at": round(time.time(), 3), "role": grant.role, **account._asdict()}
        line |= {name: value for name, value in tags.items() if value is not None}
        line |= {"input": input_tokens, "output": output_tokens, "usd": None if usd is None else usd / PICO}
        with self._lock:
            self._open()
            grant_calls = GrantCalls(grant)
            if grant.calls is not None:
                grant_calls = self._grant_calls.setdefault(id(grant), grant_calls)
            fault = None if all(map(self._is_available, pools)) else self._acquire(pools)
            if not isinstance(fault, BudgetSpent):
                fault = grant_calls.refusal() or fault
            if fault:
                raise fault
            self._number += 1
            self._write({"sent": self._number} | line)
            grant_calls.under_way += 1
            return Reservation(self, self._number, account, grant_calls, rates)

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

    def _pools(self, account: Account, need: AccountTotals) -> list[_BudgetPool]:
        """Return the pools that a call of this account is paid from. Only `test` may use the final test's reserve."""
        of_run, *of_generation = account.pools()
        kept = Usage() if of_run == "test" or not self._run_limits else self._held_back()
        measured = {"usd": ceil(kept.usd * PICO), "tokens": kept.tokens, "calls": kept.calls}
        pools: list[_BudgetPool] = []
        for unit, limit in self._run_limits.items():
            reserve = 0 if of_run == "test" else max(ceil(self._budget.test_reserve * limit), measured[unit])
            family = (f"work.{unit}", f"test.{unit}")
            pools.append(_BudgetPool("run", f"{of_run}.{unit}", family, getattr(need, unit), limit, reserve))
        for name in of_generation:
            for unit, limit in self._generation_limits.items():
                key = f"{name}.{unit}"
                pools.append(_BudgetPool("generation", key, (key,), getattr(need, unit), limit))
        return pools

    def _is_available(self, pool: _BudgetPool) -> bool:
        available = self._holds.get(pool.key, 0) - self._own_file.used(pool.key)
        return pool.need <= available and pool.need <= pool.ceiling - self._all_used(pool)

    def _all_used(self, pool: _BudgetPool) -> int:
        return self._held_by_others[pool.key] + sum(map(self._own_file.used, pool.family))

    def _acquire(self, pools: Sequence[_BudgetPool]) -> BudgetSpent | BudgetFullyReserved | None:
        """Hold what is needed and a share of the remainder, or return why that cannot be."""
        fault: BudgetFullyReserved | None = None
        with self._register.locked() as others:
            for pool in pools:
                self._held_by_others[pool.key] = sum(other.counts(key) for other in others for key in pool.family)
            files = [self._own_file, *(other.ledger_file for other in others)]
            for pool in pools:
                settled = sum(file.settled[key] for file in files for key in pool.family)
                if settled + pool.need > pool.ceiling:
                    return BudgetSpent(pool.scope, pool.spent_line(settled))
                if self._all_used(pool) + pool.need > pool.ceiling:
                    fault = BudgetFullyReserved(f"{pool.spent_line(settled)}; wait until calls under way are settled")
            if fault is None:
                for pool in pools:
                    for key in pool.family:  # release what the family's other pools do not use
                        self._holds[key] = self._own_file.used(key)
                    remainder = pool.ceiling - self._all_used(pool) - pool.need
                    self._holds[pool.key] += pool.need + int(self._share * remainder)
                self._register.hold(self._holds)
                return None
        # other processes do not notify us when they release budget
        if any(self._held_by_others.values()) and not (self._retry_timer and self._retry_timer.is_alive()):
            self._retry_timer = threading.Timer(_POLL, lambda: [wake() for wake in self._wakes])
            self._retry_timer.daemon = True
            self._retry_timer.start()
        return fault

    def _release_unused(self, account: Account) -> None:
        """Publish use beyond the allowance and, when no call is under way, release what is not used."""
        idle = self._share < 1 and not self._own_file.under_way
        keys = self._holds if idle else [f"{name}.{unit}" for name in account.pools() for unit in UNITS]
        used = {key: self._own_file.used(key) for key in keys if key in self._holds}
        changed = {key: n for key, n in used.items() if n > self._holds[key] or (idle and n < self._holds[key])}
        if changed:
            self._holds |= changed
            with self._register.locked():
                self._register.hold(self._holds)

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


@dataclass(slots=True)
class Reservation:
    """A budget reservation for one attempt, to be settled once."""

    ledger: RunLedger
    number: int
    account: Account
    grant_calls: GrantCalls
    rates: Rates | None

    def settle(
        self, input_tokens: int, output_tokens: int, cached_tokens: int = 0, written_tokens: int = 0
    ) -> float | None:
        """Settle an answered attempt and return its price in US dollars; None where prices are not known.

        `input_tokens` includes `cached_tokens` (read from the provider's cache) and `written_tokens` (put into it).
        No tokens at all: the provider turned the call down, and it does not count as one of the grant's calls.
        """
        tokens = (input_tokens, output_tokens, cached_tokens, written_tokens)
        usd = None if self.rates is None else self.rates.cost(*tokens) / PICO
        counts = dict(zip(("input", "output", "cached"), tokens, strict=False))
        counts_as_call = input_tokens + output_tokens > 0
        self.ledger.finish_attempt(self, {"done": self.number, **counts, "usd": usd}, counts_as_call=counts_as_call)
        return usd

    def unanswered(self, *, may_be_charged: bool) -> None:
        """End an attempt without an answer: it stays counted as reserved where it `may_be_charged`, else is undone."""
        line = {"unanswered" if may_be_charged else "undone": self.number}
        self.ledger.finish_attempt(self, line, counts_as_call=may_be_charged)
