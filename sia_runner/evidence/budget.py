"""Computes the run's remaining budget at the start of a generation."""

from sia_runner.config import Experiment
from sia_runner.ground.history import minutes_spent
from sia_runner.ground.journal import Record
from sia_runner.models.books import Row
from sia_runner.models.ledger import read
from sia_runner.rundir import RunDir


def left(config: Experiment, run: RunDir, n: int) -> dict[str, float | None]:
    """Return what is left of usd, tokens, calls and minutes; None where there is no limit.

    This is the limit, less the reserve for the final test, less the spending of generations before `n`. Generation n's
    own spending is not included: a repeated proposal reads the same figures.
    """
    budget, spending = config.budget, Row()
    for account, row in read(run.ledger).rows.items():
        if account.generation < n:
            spending.add(row)
    usage = spending.usage()
    used = {"usd": usage.usd, "tokens": usage.tokens, "calls": usage.calls}
    amounts: dict[str, float | None] = {
        name: _left(getattr(budget, name), 1 - budget.reserve, spending) for name, spending in used.items()
    }
    return amounts | {"minutes": _left(budget.minutes, 1.0, _minutes(run, n))}


def _left(limit: float | None, share: float, spending: float) -> float | None:
    return None if limit is None else max(0.0, round(limit * share - spending, 6))


def _minutes(run: RunDir, n: int) -> float:
    journal = Record(run.journal)
    return sum(minutes_spent(journal, k) for k in range(1, n))
