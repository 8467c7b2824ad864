"""The chart of how far the arms are apart on test, pair by pair."""

from collections.abc import Callable, Sequence

from sia_runner.report.axes import DODGE, with_intervals
from sia_runner.report.contrasts import Contrast
from sia_runner.report.groups import Group
from sia_runner.report.paper import scale
from sia_runner.report.statistics import Mean
from sia_runner.report.svg import HEIGHT, Chart

PAIRS = 16  # drawn one by one
NORMAL = 1.96
OVER_SEEDS = "seeds"


def differences(group: Group, contrasts: Sequence[Contrast]) -> str:
    """Each pair's difference with its normal 95% interval over questions, then the two intervals of the verdict."""
    drawn = [one for one in contrasts if one.pairs]
    columns = _columns(drawn)
    pairs = len(columns) - 2
    wide = max(1.0, pairs / 5)  # so that the names of the last two fit
    at = [*range(pairs), pairs - 1 + 1.2 * wide, pairs - 1 + 2.7 * wide]
    told = "; ".join(f"{name}: {' '.join(f'{one.value:+.3f}' for one in of if one)}" for name, of in columns)
    span = with_intervals(_reached(columns), [one.over_seeds for one in drawn])
    chart = Chart("difference on test, pair by pair", told, (-0.4, at[-1] + 0.6 * wide), span)
    chart.frame([(x, name) for x, (name, _) in zip(at, columns, strict=True)], *_axis(group), "")
    chart.text(chart.x(sum(at[-2:]) / 2), HEIGHT - 6, "mean, interval over", "middle")
    chart.level(0)
    for k, one in enumerate(drawn):
        arm, dodge = group.sides.index(one.new), (k - (len(drawn) - 1) / 2) * DODGE * 1.4
        for at_pair, (x, (name, of)) in enumerate(zip(at, columns, strict=True)):
            if mean := of[k]:
                chart.whisker(x, mean.ci95, arm, dodge)
                tip = f"{one.new.label}, {name}: {mean.value:+.4f}"
                chart.mark(x, mean.value, arm, filled=at_pair >= pairs, tip=tip, dodge=dodge)
    return str(chart)


def _reached(columns: Sequence[tuple[str, list[Mean | None]]]) -> list[float]:
    """Zero, and each difference with the whole of its interval; of the one over seeds the middle alone."""
    found = [0.0]
    for name, of in columns:
        for one in of:
            if one:
                found += [one.value, *(one.ci95 or ())] if name != OVER_SEEDS else [one.value]
    return found


def _columns(contrasts: Sequence[Contrast]) -> list[tuple[str, list[Mean | None]]]:
    """Name and, contrast by contrast, what is drawn: a column a seed, and two for their mean."""
    seeds = sorted({pair.seed for one in contrasts for pair in one.pairs}, key=lambda seed: (seed is None, seed))
    names = ["seed {}" if len(seeds) < 4 else "{}" if len(seeds) <= 10 else ""] * len(seeds)
    each: list[tuple[str, list[Mean | None]]] = [
        (name.format(seed), [_pair(one, seed) for one in contrasts])
        for name, seed in zip(names[:PAIRS], seeds[:PAIRS], strict=True)
    ]
    seeds_mean = [one.over_seeds for one in contrasts]
    return [*each, (OVER_SEEDS, seeds_mean), ("questions", [one.over_questions for one in contrasts])]


def _pair(contrast: Contrast, seed: int | None) -> Mean | None:
    pair = next((pair for pair in contrast.pairs if pair.seed == seed), None)
    if not pair:
        return None
    half = None if pair.standard_error is None else NORMAL * pair.standard_error
    return Mean(pair.difference, 1, None, None if half is None else (pair.difference - half, pair.difference + half))


def _axis(group: Group) -> tuple[str, Callable[[float], str]]:
    times = scale(group.some.metric)[0]
    unit = "points" if times == 100 else group.some.metric
    return f"difference on test, {unit}", lambda value: f"{times * value:+.4g}" if value else "0"
