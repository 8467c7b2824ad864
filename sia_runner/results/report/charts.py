"""The charts of a report: val over generations, training curves, test scores, and differences between arms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from sia_runner.records import Score
from sia_runner.results.report.analysis import ArmContrast, ArmRuns, ComparableGroup, SeedMean
from sia_runner.results.report.runs import ReportedRun
from sia_runner.results.report.svg import COLOURS, HEIGHT, SvgChart
from sia_runner.results.report.tables import format_figure, is_percent, metric_scale

_ARM_OFFSET = 7  # pixels between the marks of two arms, so that arms of the same score do not hide one another
_SHARE_MARGIN = 0.02  # margin beyond the possible shares 0 and 1, for a mark


def _arm_offset(arm: int, group: ComparableGroup) -> float:
    return (arm - (len(group.sides) - 1) / 2) * _ARM_OFFSET


def _tick_format(group: ComparableGroup) -> Callable[[float], str]:
    times, unit = metric_scale(group.sample_run.metric)[0], "%" if is_percent(group.sample_run.metric) else ""
    return lambda value: f"{times * value:.4g}{unit}"


def _clip_to_shares(group: ComparableGroup, span: tuple[float, float]) -> tuple[float, float]:
    if not is_percent(group.sample_run.metric):
        return span
    return max(span[0], -_SHARE_MARGIN), min(span[1], 1 + _SHARE_MARGIN)


def _padded_range(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return (0.0, 1.0)
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or abs(high) * 0.05 or 0.05
    return (low - margin, high + margin)


def _range_with_intervals(values: Sequence[float], means: Sequence[SeedMean | None]) -> tuple[float, float]:
    """Return the range of an axis that shows intervals too, unless they would squeeze the values together."""
    low, high = _padded_range(values)
    ends = [end for mean in means if mean for end in mean.ci95 or ()]
    extent = high - low
    headroom = 0.12 * extent if values else 0  # for the figures above the marks
    return max(min([low, *ends]), low - extent), min(max([high, *ends]), high + extent) + headroom


_MAX_SEED_CHARTS = 24  # charts of single seeds at most


def incumbent_values(run: ReportedRun, last: int) -> dict[int, float]:
    """Return generation -> val of the best accepted so far, carried on to generation `last`."""
    best: dict[int, float] = {}
    accepted = {g.n: g.val.value for g in run.generations if g.status == "accepted" and g.val}
    for n in range(1, last + 1):
        if (value := accepted.get(n, best.get(n - 1))) is not None:
            best[n] = value
    return best


def mean_incumbents(side: ArmRuns, last: int) -> dict[int, SeedMean]:
    """Return generation -> the incumbent's val over the runs that ended, where all of them have one."""
    ended = [run for run in side.runs if run.status in ("completed", "budget") and run.best]
    each = [(run.seed, incumbent_values(run, last)) for run in ended]
    shared = [n for n in range(1, last + 1) if all(n in scores for _, scores in each)]
    return {n: mean for n in shared if (mean := SeedMean.per_seed([(seed, scores[n]) for seed, scores in each]))}


def chart_over_seeds(group: ComparableGroup) -> Markup:
    """Draw lines of means, with bands and whiskers if there are two seeds or more."""
    last, metric = _last_generation(group), group.sample_run.metric
    lines = [mean_incumbents(side, last) for side in group.sides]
    figures = [" ".join(f"{mean.value:.3f}" for mean in line.values()) or "none" for line in lines]
    ends = [end for line in lines for mean in line.values() for end in (mean.value, *(mean.ci95 or ()))]
    low, high = _val_range(group)
    # a band of only two seeds may be far wider than the scores
    span = (max(low - (high - low) / 2, min([low, *ends])), min(high + (high - low) / 2, max([high, *ends])))
    reach = max(last, 2)
    chart = _val_chart(
        group,
        "val of the incumbent by generation, mean over seeds",
        "; ".join(f"{side.label} {of}" for side, of in zip(group.sides, figures, strict=True)),
        (1, reach + (reach - 1) * 0.12),
        _clip_to_shares(group, span),
    )
    for arm, line in enumerate(lines):
        dodge = _arm_offset(arm, group)
        bands = [(n, mean.ci95) for n, mean in line.items() if mean.ci95]
        if len(bands) > 1:
            lower, upper = ([(n, chart.within(both[end])) for n, both in bands] for end in (0, 1))
            chart.band(lower, upper, arm, dodge)
        chart.line([(n, mean.value) for n, mean in line.items()], arm, dodge=dodge)
        for n, mean in line.items():
            tip = f"generation {n}: {mean.value:.4f} over {mean.n} seeds"
            chart.mark(n, mean.value, arm, tip, mean.ci95, dodge=dodge)
    newest = [(line[last].value, arm) for arm, line in enumerate(lines) if last in line]
    chart.ends(last, [(value, format_figure(value, metric), arm) for value, arm in newest])
    return chart.markup()


def charts_by_seed(group: ComparableGroup) -> list[tuple[str, Markup]]:
    """Return ``(seed, chart)``: every candidate with its interval, and the incumbent as a line."""
    seeds = sorted({run.seed for run in group.runs if run.generations}, key=lambda seed: (seed is None, seed or 0))
    return [(f"seed {seed}", _seed_chart(group, seed)) for seed in seeds[:_MAX_SEED_CHARTS]]


def _seed_chart(group: ComparableGroup, seed: int | None) -> Markup:
    runs = [(arm, run) for arm, side in enumerate(group.sides) for run in side.runs if run.seed == seed]
    texts: list[str] = []
    for _, run in runs:
        candidates = [f"{g.val.value:.3f} {g.status}" if g.val else g.status for g in run.generations]
        texts.append(f"{run.name}: {', '.join(candidates) or 'nothing yet'}")
    x = (1, max(_last_generation(group), 2))
    chart = _val_chart(group, f"seed {seed}, val of each candidate", "; ".join(texts), x, _val_range(group))
    for arm, run in runs:
        dodge = _arm_offset(arm, group)
        newest = max((g.n for g in run.generations), default=0)
        chart.steps(list(incumbent_values(run, newest).items()), arm, dodge)
        for g in run.generations:
            tip = f"{run.name}, generation {g.n}, {g.lever} {g.algorithm or ''}: {g.status}. {g.reason}"
            if g.val:
                accepted = g.status == "accepted"
                chart.mark(g.n, g.val.value, arm, tip, g.val.ci95, filled=accepted, dodge=dodge)
            else:
                chart.cross(g.n, arm, tip, dodge)
    return chart.markup()


def _val_chart(
    group: ComparableGroup, title: str, description: str, x: tuple[float, float], y: tuple[float, float]
) -> SvgChart:
    last = _last_generation(group)
    ticks = [(n, str(n)) for n in range(1, last + 1, max(1, -(-last // 8)))]
    y_name = f"{group.sample_run.metric} on val"
    return SvgChart(title, description, x, y, ticks, y_name, _tick_format(group), "generation")


def chart_curve(points: Sequence[tuple[int, float]], name: str) -> Markup:
    """Draw a curve of (step, value)."""
    values = [value for _, value in points]
    last, description = points[-1][0], f"from {values[0]:.4g} to {values[-1]:.4g}"
    x, ticks = (1, max(last, 2)), [(1, "1"), (last, str(last))]
    chart = SvgChart(f"{name} by step", description, x, _padded_range(values), ticks, name, "{:.4g}".format, "step")
    chart.line(points, 1)
    return chart.markup()


def _last_generation(group: ComparableGroup) -> int:
    return max((g.n for run in group.runs for g in run.generations), default=1)


def _val_range(group: ComparableGroup) -> tuple[float, float]:
    scores = [g.val for run in group.runs for g in run.generations if g.val]
    return _clip_to_shares(group, _padded_range([end for val in scores for end in (val.value, *val.ci95)]))


_MAX_LABELLED_ARMS = 3  # arms whose names fit into a chart
_ARM_GAP = 1.6  # between two arms; initial and best are 1 apart
_LETTER_WIDTH = 7  # pixels at most; names that are too long are in the legend only


@dataclass(frozen=True, slots=True)
class _TestColumn:
    """The scores of an arm's first harness or best candidate. `interval`: of a single score, also that of the mean."""

    side: ArmRuns
    name: str
    scores: list[tuple[int | None, float]]  # seed, score
    mean: SeedMean | None
    interval: tuple[float, ...]


def chart_test_scores(group: ComparableGroup) -> Markup:
    """Draw initial and best: a line a run, and the means with their intervals over seeds."""
    metric = group.sample_run.metric
    arms = [
        (
            _test_column(side, "initial", [(run.seed, run.initial) for run in side.tested if run.initial]),
            _test_column(side, "best", [(run.seed, run.final) for run in side.tested if run.final]),
        )
        for side in group.sides
    ]
    columns = [column for both in arms for column in both]
    values = [value for column in columns for value in (*(value for _, value in column.scores), *column.interval)]
    description = "; ".join(
        f"{column.side.label} {column.name}: {' '.join(f'{value:.3f}' for _, value in column.scores)}"
        for column in columns
    )
    at = [arm * (1 + _ARM_GAP) for arm in range(len(arms))]
    few = len(arms) <= _MAX_LABELLED_ARMS
    ticks = [(x + after, column.name) for x, both in zip(at, arms, strict=True) for after, column in enumerate(both)]
    chart = SvgChart(
        "test, first harness and best candidate",
        description,
        (-0.3, at[-1] + 1.3),
        _clip_to_shares(group, _range_with_intervals(values, [column.mean for column in columns])),
        ticks if few else [],
        f"{metric} on test",
        _tick_format(group),
        "",
    )
    for arm, (x, both) in enumerate(zip(at, arms, strict=True)):
        _draw_arm(chart, x, both, arm, metric if few else None)
    longest = max(len(side.label) for side in group.sides)
    if few and _LETTER_WIDTH * longest < chart.x(1 + _ARM_GAP) - chart.x(0):
        for arm, (x, side) in enumerate(zip(at, group.sides, strict=True)):
            chart.text(chart.x(x + 0.5), HEIGHT - 6, side.label, "middle", f"label arm{arm}")
    return chart.markup()


def _test_column(side: ArmRuns, name: str, scores: Sequence[tuple[int | None, Score]]) -> _TestColumn:
    values = [(seed, score.value) for seed, score in scores]
    interval, mean = scores[0][1].ci95 if len(scores) == 1 else (), SeedMean.per_seed(values)
    return _TestColumn(side, name, values, replace(mean, ci95=interval) if mean and interval else mean, interval)


def _draw_arm(chart: SvgChart, x: float, both: tuple[_TestColumn, _TestColumn], arm: int, labelled: str | None) -> None:
    """Draw one arm. `labelled`: the metric, if figures are written above the means, else None."""
    for run in both[0].side.tested:
        if run.initial and run.final:
            chart.line([(x, run.initial.value), (x + 1, run.final.value)], arm, "thread")
    for at, column in enumerate(both):
        for seed, value in column.scores:
            tip = f"{column.side.label}, seed {seed}, {column.name} {value:.4f}"
            chart.small_mark(x + at, value, arm, tip)
        if mean := column.mean:
            chart.mark(x + at, mean.value, arm, f"mean {mean.value:.4f} over {mean.n} seeds", mean.ci95)
            if labelled:
                highest = max(mean.value, *(value for _, value in column.scores), *(mean.ci95 or ()))
                above, name = chart.y(chart.within(highest)) - 8, f"label arm{arm % COLOURS}"
                chart.text(chart.x(x + at), above, format_figure(mean.value, labelled), "middle", name)


_MAX_PAIR_COLUMNS = 16  # columns at most
_NORMAL_975 = 1.96


def chart_differences(group: ComparableGroup, contrasts: Sequence[ArmContrast]) -> Markup:
    """Draw each pair's difference with its normal 95% interval over questions, then the verdict's two intervals."""
    compared = [contrast for contrast in contrasts if contrast.pairs]
    with_pairs = {pair.seed for contrast in compared for pair in contrast.pairs}
    seeds = sorted(with_pairs, key=lambda seed: (seed is None, seed or 0))
    name = "seed {}" if len(seeds) < 4 else "{}" if len(seeds) <= 10 else ""
    shown = seeds[:_MAX_PAIR_COLUMNS]
    by_pair = [(name.format(seed), [_pair_mean(contrast, seed) for contrast in compared]) for seed in shown]
    over_seeds = [contrast.over_seeds for contrast in compared]
    questions = ("questions", [contrast.over_questions for contrast in compared])
    columns = [*by_pair, ("seeds", over_seeds), questions]
    # zero and each difference with its whole interval, but only the mean of the one over seeds
    values = [0.0, *(mean.value for mean in over_seeds if mean)]
    for mean in (mean for _, means in [*by_pair, questions] for mean in means if mean):
        values += [mean.value, *(mean.ci95 or ())]
    pairs = len(by_pair)
    spacing = max(1.0, pairs / 5)  # so that the names of the last two fit
    at = [*range(pairs), pairs - 1 + 1.2 * spacing, pairs - 1 + 2.7 * spacing]
    metric = group.sample_run.metric
    times, unit = metric_scale(metric)[0], "points" if is_percent(metric) else metric
    chart = SvgChart(
        "difference on test, pair by pair",
        "; ".join(f"{name}: {' '.join(f'{mean.value:+.3f}' for mean in means if mean)}" for name, means in columns),
        (-0.4, at[-1] + 0.6 * spacing),
        _range_with_intervals(values, over_seeds),
        [(x, name) for x, (name, _) in zip(at, columns, strict=True)],
        f"difference on test, {unit}",
        lambda value: f"{times * value:+.4g}" if value else "0",
        "",
    )
    chart.text(chart.x(sum(at[-2:]) / 2), HEIGHT - 6, "mean, interval over", "middle")
    chart.rule(0, "level")
    for k, contrast in enumerate(compared):
        arm, dodge = group.sides.index(contrast.new), (k - (len(compared) - 1) / 2) * _ARM_OFFSET * 1.4
        for at_pair, (x, (name, means)) in enumerate(zip(at, columns, strict=True)):
            if mean := means[k]:
                tip = f"{contrast.new.label}, {name}: {mean.value:+.4f}"
                chart.mark(x, mean.value, arm, tip, mean.ci95, filled=at_pair >= pairs, dodge=dodge)
    return chart.markup()


def _pair_mean(contrast: ArmContrast, seed: int | None) -> SeedMean | None:
    pair = next((pair for pair in contrast.pairs if pair.seed == seed), None)
    if not pair or pair.standard_error is None:
        return pair and SeedMean(pair.difference, 1)
    half = _NORMAL_975 * pair.standard_error
    return SeedMean(pair.difference, 1, None, (pair.difference - half, pair.difference + half))
