"""The gain of each run: the best candidate against the first harness on test, and what that cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sia_runner.ground.scoring import difference, mean
from sia_runner.report.contrasts import Contrast
from sia_runner.report.groups import Group, Side
from sia_runner.report.runs import Ran
from sia_runner.report.statistics import LEVEL, TIE, UNTESTED

POINT = 0.01  # of the metric: a percentage point of accuracy


@dataclass(frozen=True, slots=True)
class Cost:
    """A gain and its cost.

    `points`: gained on test, above 0 for better. `usd` None: some price is not known. The cost of a point is None if
    nothing was gained, or if it was saved.
    """

    points: float
    usd: float | None
    tokens: int
    seconds: float

    @property
    def usd_per_point(self) -> float | None:
        """Dollars for a point gained."""
        return self._per_point(self.usd)

    @property
    def tokens_per_point(self) -> float | None:
        """Tokens for a point gained."""
        return self._per_point(self.tokens)

    @property
    def seconds_per_point(self) -> float | None:
        """Seconds for a point gained."""
        return self._per_point(self.seconds)

    def _per_point(self, amount: float | None) -> float | None:
        return amount / self.points if amount is not None and amount >= 0 and self.points > 0 else None


@dataclass(frozen=True, slots=True)
class Gain:
    """The gain of one run. `same`: the first harness is still the best, so nothing was gained or lost."""

    run: Ran
    cost: Cost
    same: bool
    lost: int | None
    won: int | None
    p_value: float | None
    verdict: str


def gains(group: Group) -> list[Gain]:
    """Return the gains of the runs whose first harness and best candidate were tested."""
    return [_gain(run) for run in group.runs if run.initial and run.final]


def per_arm(side: Side, group_gains: Sequence[Gain]) -> tuple[int, Cost] | None:
    """Return how many runs of an arm have a gain, and their total gain and cost; None if none has."""
    costs = [gain.cost for gain in group_gains if gain.run in side.runs]
    return (len(costs), _total_cost(costs)) if costs else None


def extra(contrast: Contrast) -> Cost | None:
    """Return what the new arm scored above the old one, summed over the pairs, and its extra cost."""
    costs = [_extra_cost(pair.old, pair.new, pair.difference) for pair in contrast.pairs]
    return _total_cost(costs) if costs else None


def _total_cost(costs: Sequence[Cost]) -> Cost:
    prices = [cost.usd for cost in costs]
    usd = None if None in prices else sum(price for price in prices if price is not None)
    points, seconds = sum(cost.points for cost in costs), sum(cost.seconds for cost in costs)
    return Cost(points, usd, sum(cost.tokens for cost in costs), seconds)


def _extra_cost(old: Ran, new: Ran, difference: float) -> Cost:
    sign = 1 if new.higher_is_better else -1
    old_spending, new_spending = (_spending(run) for run in (old, new))
    usd = None if old_spending[0] is None or new_spending[0] is None else new_spending[0] - old_spending[0]
    return Cost(sign * difference / POINT, usd, new_spending[1] - old_spending[1], new.seconds - old.seconds)


def _gain(run: Ran) -> Gain:
    initial, final = run.initial, run.final
    if not initial or not final:
        raise ValueError(f"{run.name} was not tested")
    sign = 1 if run.higher_is_better else -1
    usd, tokens = _spending(run)
    cost = Cost(sign * (final["value"] - initial["value"]) / POINT, usd, tokens, run.seconds)
    if run.best == run.first:
        return Gain(run, cost, True, 0, 0, None, "no change")
    old, new = run.answers.get(run.first or 0, ()), run.answers.get(run.best or 0, ())
    if not (_is_mean(old, initial) and _is_mean(new, final)):
        return Gain(run, cost, False, None, None, None, UNTESTED)
    by_question = difference(new, old, run.higher_is_better)
    tied = by_question.p_value is not None and by_question.p_value >= LEVEL
    conclusion = TIE if tied else "better" if cost.points > 0 else "worse"
    return Gain(run, cost, False, by_question.lost, by_question.won, by_question.p_value, conclusion)


def _is_mean(outcomes: Sequence[Any], score: dict[str, Any]) -> bool:
    """Check that the score is the mean of the outcomes: McNemar's test holds for means over questions only.

    Files that were changed since they were written fail too.
    """
    return bool(outcomes) and abs(mean(outcomes) - score["value"]) < 1e-9


def _spending(run: Ran) -> tuple[float | None, int]:
    usage = run.usage or {}
    usd, tokens = usage.get("usd"), usage.get("tokens")
    return (float(usd) if isinstance(usd, int | float) else None), (tokens if isinstance(tokens, int) else 0)
