"""Budget limits: the pools that a call is paid from, and the message that says which limit is reached."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from sia_runner.config import Amounts, Budget
from sia_runner.models.books import UNITS, Account, Amount, Book
from sia_runner.models.lease import Lease
from sia_runner.models.prices import PICO
from sia_runner.models.protocol import BudgetSpent, Crowded, Grant, Scope
from sia_runner.records import Usage

_OF_RUN = ("work", "test")


@dataclass(frozen=True, slots=True)
class Pot:
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


class Limits:
    """The budget, in whole picodollars, tokens and calls."""

    def __init__(self, budget: Budget) -> None:
        self._run, self._generation, self._reserve = _amounts(budget), _amounts(budget.generation), budget.reserve
        self.in_dollars = budget.usd is not None or budget.generation.usd is not None

    def pools(self, account: Account, need: Amount, held_back: Callable[[], Usage]) -> list[Pot]:
        """Return the pools that a call of this account is paid from. Only `test` may use the final test's reserve."""
        of_run, *of_generation = account.pools()
        reserve = Amount()
        if self._run and of_run != "test":
            measured = held_back()
            reserve = Amount(ceil(measured.usd * PICO), measured.tokens, measured.calls)
        pools = [self._of_run(of_run, unit, need, reserve) for unit in self._run]
        for name in of_generation:
            pools += [Pot("generation", name, u, need[u], limit, 0) for u, limit in self._generation.items()]
        return pools

    def _of_run(self, name: str, unit: int, need: Amount, reserve: Amount) -> Pot:
        limit = self._run[unit]
        share = 0 if name == "test" else ceil(self._reserve * limit)
        return Pot("run", name, unit, need[unit], limit, max(share, reserve[unit]))


@dataclass(slots=True)
class Turns:
    """The calls that a grant with a limit of its own has used. A repeated step has a new grant and starts anew."""

    grant: Grant
    finished: int = 0
    under_way: int = 0

    @property
    def available(self) -> bool:
        """Tells whether the grant may make another call."""
        return self.grant.calls is None or self.finished + self.under_way < self.grant.calls

    def refusal(self) -> BudgetSpent | Crowded | None:
        """Return why the grant may make no other call; None where it may."""
        grant = self.grant
        if self.available:
            return None
        if self.under_way:
            return Crowded(f"{grant.candidate}: all {grant.calls} calls of this {grant.purpose} are made or under way")
        return BudgetSpent("grant", f"{grant.candidate}: all {grant.calls} calls of this {grant.purpose} are made")


def refused(
    pools: Iterable[Pot], own: Book, others: Iterable[Lease], held_by_others: Mapping[str, int]
) -> BudgetSpent | Crowded | None:
    """Return why a call cannot be sent: the widest limit that is spent; None where it can.

    It is BudgetFullyReserved where settling a call under way may still free enough.
    """
    contended: Crowded | None = None
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
            contended = Crowded(_spent_line(pool, settled) + "; wait until calls under way are settled")
    return contended


def _spent_line(pool: Pot, settled: int) -> str:
    key = "budget" if pool.scope == "run" else "budget.generation"
    reserve = f", {_show(pool.reserve, pool.unit)} kept for the final test" if pool.reserve else ""
    return (
        f"{key}.{UNITS[pool.unit]}={_show(pool.limit, pool.unit)}: {_show(settled, pool.unit)} spent{reserve}; "
        f"the next call may take {_show(pool.need, pool.unit)}"
    )


def _show(amount: int, unit: int) -> str:
    return f"{amount / PICO:.6g}" if UNITS[unit] == "usd" else str(amount)


def _amounts(limits: Amounts) -> dict[int, int]:
    """Return unit -> limit, without the units that have no limit."""
    usd = None if limits.usd is None else int(limits.usd * PICO)
    values = enumerate((usd, limits.tokens, limits.calls))
    return {unit: limit for unit, limit in values if limit is not None}
