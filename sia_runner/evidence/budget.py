"""What is left of the run's budget when a generation begins."""

from sia_runner.config import Experiment
from sia_runner.ground.history import minutes_spent
from sia_runner.ground.journal import Record
from sia_runner.models.books import Row
from sia_runner.models.ledger import read
from sia_runner.rundir import RunDir


def left(config: Experiment, run: RunDir, n: int) -> dict[str, float | None]:
    """Of usd, tokens, calls and minutes: the limit, less what is kept for the final test, less what the generations
    before `n` spent. None: no limit. Generation n's own spending is not in it: a proposal done again reads the same."""
    budget, spent = config.budget, Row()
    for account, row in read(run.ledger).rows.items():
        if account.generation < n:
            spent.add(row)
    usage = spent.usage()
    used = {"usd": usage.usd, "tokens": usage.tokens, "calls": usage.calls}
    amounts: dict[str, float | None] = {
        name: _left(getattr(budget, name), 1 - budget.reserve, spent) for name, spent in used.items()
    }
    return amounts | {"minutes": _left(budget.minutes, 1.0, _minutes(run, n))}


def _left(limit: float | None, share: float, spent: float) -> float | None:
    return None if limit is None else max(0.0, round(limit * share - spent, 6))


def _minutes(run: RunDir, n: int) -> float:
    journal = Record(run.journal)
    return sum(minutes_spent(journal, k) for k in range(1, n))
