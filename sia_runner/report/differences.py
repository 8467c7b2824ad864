"""The chart of the differences between arms on test, pair by pair."""

from collections.abc import Callable, Sequence

from sia_runner.report.axes import DODGE, with_intervals
from sia_runner.report.contrasts import Contrast
from sia_runner.report.groups import Group
from sia_runner.report.paper import scale
from sia_runner.report.statistics import Mean
from sia_runner.report.svg import HEIGHT, Chart

PAIRS = 16  # columns at most
NORMAL = 1.96
OVER_SEEDS = "seeds"


def differences(group: Group, contrasts: Sequence[Contrast]) -> str:
    """Draw each pair's difference with its normal 95% interval over questions, then the verdict's two intervals."""
    compared = [contrast for contrast in contrasts if contrast.pairs]
    columns = _columns(compared)
    pairs = len(columns) - 2
    spacing = max(1.0, pairs / 5)  # so that the names of the last two fit
    at = [*range(pairs), pairs - 1 + 1.2 * spacing, pairs - 1 + 2.7 * spacing]
    description = "; ".join(
        f"{name}: {' '.join(f'{mean.value:+.3f}' for mean in means if mean)}" for name, means in columns
    )
    span = with_intervals(_axis_values(columns), [contrast.over_seeds for contrast in compared])
    chart = Chart("difference on test, pair by pair", description, (-0.4, at[-1] + 0.6 * spacing), span)
    chart.frame([(x, name) for x, (name, _) in zip(at, columns, strict=True)], *_axis(group), "")
    chart.text(chart.x(sum(at[-2:]) / 2), HEIGHT - 6, "mean, interval over", "middle")
    chart.level(0)
    for k, contrast in enumerate(compared):
        arm, dodge = group.sides.index(contrast.new), (k - (len(compared) - 1) / 2) * DODGE * 1.4
        for at_pair, (x, (name, means)) in enumerate(zip(at, columns, strict=True)):
            if mean := means[k]:
                chart.whisker(x, mean.ci95, arm, dodge)
                tip = f"{contrast.new.label}, {name}: {mean.value:+.4f}"
                chart.mark(x, mean.value, arm, filled=at_pair >= pairs, tip=tip, dodge=dodge)
    return str(chart)


def _axis_values(columns: Sequence[tuple[str, list[Mean | None]]]) -> list[float]:
    """Return zero and each difference with its whole interval, but only the mean of the one over seeds."""
    values = [0.0]
    for name, means in columns:
        for mean in means:
            if mean:
                values += [mean.value, *(mean.ci95 or ())] if name != OVER_SEEDS else [mean.value]
    return values


def _columns(contrasts: Sequence[Contrast]) -> list[tuple[str, list[Mean | None]]]:
    """Return column names with a mean for each contrast: a column a seed, and two for their mean."""
    seeds = sorted(
        {pair.seed for contrast in contrasts for pair in contrast.pairs}, key=lambda seed: (seed is None, seed)
    )
    names = ["seed {}" if len(seeds) < 4 else "{}" if len(seeds) <= 10 else ""] * len(seeds)
    each: list[tuple[str, list[Mean | None]]] = [
        (name.format(seed), [_pair(contrast, seed) for contrast in contrasts])
        for name, seed in zip(names[:PAIRS], seeds[:PAIRS], strict=True)
    ]
    seeds_mean = [contrast.over_seeds for contrast in contrasts]
    return [*each, (OVER_SEEDS, seeds_mean), ("questions", [contrast.over_questions for contrast in contrasts])]


def _pair(contrast: Contrast, seed: int | None) -> Mean | None:
    pair = next((pair for pair in contrast.pairs if pair.seed == seed), None)
    if not pair:
        return None
    half = None if pair.standard_error is None else NORMAL * pair.standard_error
    return Mean(pair.difference, 1, None, None if half is None else (pair.difference - half, pair.difference + half))


def _axis(group: Group) -> tuple[str, Callable[[float], str]]:
    times = scale(group.sample_run.metric)[0]
    unit = "points" if times == 100 else group.sample_run.metric
    return f"difference on test, {unit}", lambda value: f"{times * value:+.4g}" if value else "0"
