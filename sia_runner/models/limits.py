"""What may be spent by whom, and the one line that says why not."""

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
    """Something limited that a call takes from. Picodollars, tokens or calls."""

    scope: Scope
    name: str  # work | test | gen_<n>
    unit: int
    need: int
    limit: int
    kept: int  # of the limit, for the final test

    @property
    def key(self) -> str:
        return f"{self.name}.{UNITS[self.unit]}"

    @property
    def family(self) -> Sequence[str]:
        """All that is paid from the same limit."""
        return _OF_RUN if self.scope == "run" else (self.name,)

    @property
    def ceiling(self) -> int:
        return self.limit - self.kept


class Limits:
    """The budget, in whole picodollars, tokens and calls."""

    def __init__(self, budget: Budget) -> None:
        self._run, self._generation, self._reserve = _amounts(budget), _amounts(budget.generation), budget.reserve
        self.in_dollars = budget.usd is not None or budget.generation.usd is not None

    def pots(self, account: Account, need: Amount, held_back: Callable[[], Usage]) -> list[Pot]:
        """The limited amounts that a call of this account takes from. Only `test` may touch what is kept for it."""
        of_run, *of_generation = account.pots()
        kept = Amount()
        if self._run and of_run != "test":
            measured = held_back()
            kept = Amount(ceil(measured.usd * PICO), measured.tokens, measured.calls)
        pots = [self._of_run(of_run, unit, need, kept) for unit in self._run]
        for name in of_generation:
            pots += [Pot("generation", name, u, need[u], limit, 0) for u, limit in self._generation.items()]
        return pots

    def _of_run(self, name: str, unit: int, need: Amount, kept: Amount) -> Pot:
        limit = self._run[unit]
        share = 0 if name == "test" else ceil(self._reserve * limit)
        return Pot("run", name, unit, need[unit], limit, max(share, kept[unit]))


@dataclass(slots=True)
class Turns:
    """How many of its own calls a grant has used. Grants are told apart by identity: a step done again starts anew."""

    grant: Grant
    taken: int = 0
    under_way: int = 0

    @property
    def left(self) -> bool:
        return self.grant.calls is None or self.taken + self.under_way < self.grant.calls

    def refused(self) -> BudgetSpent | Crowded | None:
        grant = self.grant
        if self.left:
            return None
        if self.under_way:
            return Crowded(f"{grant.candidate}: all {grant.calls} calls of this {grant.purpose} are made or under way")
        return BudgetSpent("grant", f"{grant.candidate}: all {grant.calls} calls of this {grant.purpose} are made")


def refused(
    pots: Iterable[Pot], book: Book, others: Iterable[Lease], elsewhere: Mapping[str, int]
) -> BudgetSpent | Crowded | None:
    """Why a call cannot be sent: the widest limit that is spent; Crowded where a settled call may still make room."""
    crowded: Crowded | None = None
    for pot in pots:
        spent = sum(b.spent(name, pot.unit) for b in (book, *(o.book for o in others)) for name in pot.family)
        if spent + pot.need > pot.ceiling:
            return BudgetSpent(pot.scope, _spent_line(pot, spent))
        used = elsewhere[pot.key] + sum(book.used(name, pot.unit) for name in pot.family)
        if used + pot.need > pot.ceiling:
            crowded = Crowded(_spent_line(pot, spent) + "; calls under way may leave room")
    return crowded


def _spent_line(pot: Pot, spent: int) -> str:
    key = "budget" if pot.scope == "run" else "budget.generation"
    kept = f", {_show(pot.kept, pot.unit)} kept for the final test" if pot.kept else ""
    return (
        f"{key}.{UNITS[pot.unit]}={_show(pot.limit, pot.unit)}: {_show(spent, pot.unit)} spent{kept}; "
        f"the next call may take {_show(pot.need, pot.unit)}"
    )


def _show(amount: int, unit: int) -> str:
    return f"{amount / PICO:.6g}" if UNITS[unit] == "usd" else str(amount)


def _amounts(limits: Amounts) -> dict[int, int]:
    """unit -> limit; what is not limited is left out."""
    usd = None if limits.usd is None else int(limits.usd * PICO)
    found = enumerate((usd, limits.tokens, limits.calls))
    return {unit: limit for unit, limit in found if limit is not None}
