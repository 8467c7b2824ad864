"""What improving gained, run by run: the best candidate against the first harness on test, and what that cost."""

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
    """`points`: gained on test, above 0 where it got better. `usd` None: some price is not known. What a point cost is
    None where nothing was gained, or where it was saved."""

    points: float
    usd: float | None
    tokens: int
    seconds: float

    @property
    def usd_per_point(self) -> float | None:
        return self._a_point(self.usd)

    @property
    def tokens_per_point(self) -> float | None:
        return self._a_point(self.tokens)

    @property
    def seconds_per_point(self) -> float | None:
        return self._a_point(self.seconds)

    def _a_point(self, spent: float | None) -> float | None:
        return spent / self.points if spent is not None and spent >= 0 and self.points > 0 else None


@dataclass(frozen=True, slots=True)
class Gain:
    """Of one run. `same`: the first harness is still the best, so that nothing was gained or lost."""

    run: Ran
    cost: Cost
    same: bool
    lost: int | None
    won: int | None
    p_value: float | None
    verdict: str


def gains(group: Group) -> list[Gain]:
    """Of the runs whose first harness and best candidate were tested."""
    return [_gain(run) for run in group.runs if run.initial and run.final]


def per_arm(side: Side, of: Sequence[Gain]) -> tuple[int, Cost] | None:
    """How many runs, and what they gained and cost together; None where none of them can say."""
    costs = [gain.cost for gain in of if gain.run in side.runs]
    return (len(costs), _together(costs)) if costs else None


def extra(contrast: Contrast) -> Cost | None:
    """What the new arm scored above the old one, summed over the pairs, and what it cost more."""
    costs = [_apart(pair.old, pair.new, pair.difference) for pair in contrast.pairs]
    return _together(costs) if costs else None


def _together(costs: Sequence[Cost]) -> Cost:
    prices = [cost.usd for cost in costs]
    usd = None if None in prices else sum(price for price in prices if price is not None)
    points, seconds = sum(cost.points for cost in costs), sum(cost.seconds for cost in costs)
    return Cost(points, usd, sum(cost.tokens for cost in costs), seconds)


def _apart(old: Ran, new: Ran, gained: float) -> Cost:
    sign = 1 if new.higher_is_better else -1
    one, other = (_spent(run) for run in (old, new))
    usd = None if one[0] is None or other[0] is None else other[0] - one[0]
    return Cost(sign * gained / POINT, usd, other[1] - one[1], new.seconds - old.seconds)


def _gain(run: Ran) -> Gain:
    initial, final = run.initial, run.final
    if not initial or not final:
        raise ValueError(f"{run.name} was not tested")
    sign = 1 if run.higher_is_better else -1
    usd, tokens = _spent(run)
    cost = Cost(sign * (final["value"] - initial["value"]) / POINT, usd, tokens, run.seconds)
    if run.best == run.first:
        return Gain(run, cost, True, 0, 0, None, "no change")
    old, new = run.answers.get(run.first or 0, ()), run.answers.get(run.best or 0, ())
    if not (_is_mean(old, initial) and _is_mean(new, final)):
        return Gain(run, cost, False, None, None, None, UNTESTED)
    by_question = difference(new, old, run.higher_is_better)
    tied = by_question.p_value is not None and by_question.p_value >= LEVEL
    said = TIE if tied else "better" if cost.points > 0 else "worse"
    return Gain(run, cost, False, by_question.lost, by_question.won, by_question.p_value, said)


def _is_mean(outcomes: Sequence[Any], score: dict[str, Any]) -> bool:
    """McNemar's test speaks of means over questions only; and of files that are as they were written."""
    return bool(outcomes) and abs(mean(outcomes) - score["value"]) < 1e-9


def _spent(run: Ran) -> tuple[float | None, int]:
    usage = run.usage or {}
    usd, tokens = usage.get("usd"), usage.get("tokens")
    return (float(usd) if isinstance(usd, int | float) else None), (tokens if isinstance(tokens, int) else 0)
