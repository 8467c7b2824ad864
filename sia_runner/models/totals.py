"""What a run spent on models, from RUN/ledger: for the summary, the verifier, and the ledger itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sia_runner.models.books import Account, Book, Row
from sia_runner.models.lease import Leases, gone


@dataclass(frozen=True, slots=True)
class Totals:
    """`rows`: per generation, candidate and purpose. `in_flight`: calls under way in processes that live."""

    rows: Mapping[Account, Row] = field(default_factory=dict)
    in_flight: int = 0

    @property
    def total(self) -> Row:
        return self.of()

    def of(self, *, generation: int | None = None, candidate: str | None = None, purpose: str | None = None) -> Row:
        """The rows that agree with what is given, added up."""
        asked = (generation, candidate, purpose)
        result = Row()
        for account, row in self.rows.items():
            if all(want is None or want == have for want, have in zip(asked, account, strict=True)):
                result.add(row)
        return result


def read(folder: Path) -> Totals:
    """The totals of RUN/ledger: of all processes, over all resumes. Writes nothing; no folder is no spending."""
    leases = list(Leases(folder).refresh())
    for lease in leases:
        if gone(lease.process):
            lease.book.abandon()
    return add_up([lease.book for lease in leases])


def add_up(books: Iterable[Book]) -> Totals:
    rows: dict[Account, Row] = {}
    in_flight = 0
    for book in books:
        in_flight += len(book.under_way)
        for account, row in book.rows.items():
            rows.setdefault(account, Row()).add(row)
    return Totals(rows, in_flight)
