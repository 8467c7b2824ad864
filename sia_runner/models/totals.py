"""The totals of a run's spending on models, added up from RUN/ledger."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sia_runner.models.books import Account, Book, Row
from sia_runner.models.lease import Leases, gone


@dataclass(frozen=True, slots=True)
class Totals:
    """The spending per generation, candidate and purpose. `in_flight`: calls under way in processes that live."""

    rows: Mapping[Account, Row] = field(default_factory=dict)
    in_flight: int = 0

    @property
    def total(self) -> Row:
        """The spending of all accounts."""
        return self.of()

    def of(self, *, generation: int | None = None, candidate: str | None = None, purpose: str | None = None) -> Row:
        """Return the sum of the accounts that match all given criteria."""
        criteria = (generation, candidate, purpose)
        result = Row()
        for account, row in self.rows.items():
            if all(want is None or want == have for want, have in zip(criteria, account, strict=True)):
                result.add(row)
        return result


def read(folder: Path) -> Totals:
    """Return the totals of RUN/ledger, of all processes and resumes. Writes nothing; no folder means no spending."""
    allowances = list(Leases(folder).refresh())
    for allowance in allowances:
        if gone(allowance.process):
            allowance.ledger_file.abandon()
    return add_up([allowance.ledger_file for allowance in allowances])


def add_up(ledger_files: Iterable[Book]) -> Totals:
    """Add the sums of several ledger files up."""
    rows: dict[Account, Row] = {}
    in_flight = 0
    for ledger_file in ledger_files:
        in_flight += len(ledger_file.under_way)
        for account, row in ledger_file.rows.items():
            rows.setdefault(account, Row()).add(row)
    return Totals(rows, in_flight)
