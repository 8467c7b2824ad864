"""The charts of a report: val over generations, training curves, test scores, and differences between arms."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sia_runner.records import Score
from sia_runner.results.report.analysis import ArmContrast, ArmRuns, ComparableGroup, SeedMean, mean_per_seed
from sia_runner.results.report.runs import ReportedRun
from sia_runner.results.report.svg import HEIGHT, SvgChart
from sia_runner.results.report.tables import format_figure, metric_scale

ARM_OFFSET = 7  # pixels between the marks of two arms
SHARE_MARGIN = 0.02  # margin beyond the possible shares 0 and 1


def arm_offset(arm: int, group: ComparableGroup) -> float:
    """Return the horizontal offset of an arm in pixels, so that arms of the same score do not hide one another."""
    return (arm - (len(group.sides) - 1) / 2) * ARM_OFFSET


def tick_format(group: ComparableGroup) -> Callable[[float], str]:
    """Return the function that formats the ticks of a score."""
    times, percent = metric_scale(group.sample_run.metric)[0], metric_scale(group.sample_run.metric)[0] == 100
    return lambda value: f"{times * value:.4g}{'%' if percent else ''}"


def clip_to_shares(group: ComparableGroup, span: tuple[float, float]) -> tuple[float, float]:
    """Cut an axis of shares at the possible shares; the edge leaves space for a mark."""
    if metric_scale(group.sample_run.metric)[0] != 100:
        return span
    return max(span[0], -SHARE_MARGIN), min(span[1], 1 + SHARE_MARGIN)


def padded_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the range of an axis with a margin."""
    if not values:
        return (0.0, 1.0)
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or abs(high) * 0.05 or 0.05
    return (low - margin, high + margin)


def range_with_intervals(values: Sequence[float], means: Sequence[SeedMean | None]) -> tuple[float, float]:
    """Return the range of an axis that shows intervals too, unless they would squeeze the values together."""
    low, high = padded_range(values)
    ends = [end for mean in means if mean and mean.ci95 for end in mean.ci95]
    extent = high - low
    headroom = 0.12 * extent if values else 0  # for the figures above the marks
    return max(min([low, *ends]), low - extent), min(max([high, *ends]), high + extent) + headroom


MAX_SEED_CHARTS = 24  # charts of single seeds at most
ENDED_STATUSES = ("completed", "budget")


def incumbent_values(run: ReportedRun, last: int) -> dict[int, float]:
    """Return generation -> val of the best accepted so far, carried on to generation `last`."""
    best: dict[int, float] = {}
    current: float | None = None
    accepted = {g.n: g.val.value for g in run.generations if g.status == "accepted" and g.val}
    for n in range(1, last + 1):
        current = accepted.get(n, current)
        if current is not None:
            best[n] = current
    return best


def mean_incumbents(side: ArmRuns, last: int) -> dict[int, SeedMean]:
    """Return generation -> the incumbent's val over the runs that ended, where all of them have one."""
    each = [(run.seed, incumbent_values(run, last)) for run in side.runs if run.status in ENDED_STATUSES and run.best]
    shared = [n for n in range(1, last + 1) if each and all(n in scores for _, scores in each)]
    return {n: average for n in shared if (average := mean_per_seed([(seed, scores[n]) for seed, scores in each]))}


def chart_over_seeds(group: ComparableGroup) -> str:
    """Draw lines of means, with bands and whiskers if there are two seeds or more."""
    last, metric = _last_generation(group), group.sample_run.metric
    lines = [mean_incumbents(side, last) for side in group.sides]
    description = "; ".join(
        f"{side.label} {' '.join(f'{mean.value:.3f}' for mean in line.values()) or 'none'}"
        for side, line in zip(group.sides, lines, strict=True)
    )
    ends = [end for line in lines for mean in line.values() for end in (mean.value, *(mean.ci95 or ()))]
    low, high = _val_range(group)
    # a band of only two seeds may be far wider than the scores
    span = (max(low - (high - low) / 2, min([low, *ends])), min(high + (high - low) / 2, max([high, *ends])))
    reach = max(last, 2)
    chart = SvgChart(
        "val of the incumbent by generation, mean over seeds",
        description,
        (1, reach + (reach - 1) * 0.12),
        clip_to_shares(group, span),
    )
    chart.frame(_generation_ticks(last), f"{metric} on val", tick_format(group), "generation")
    for arm, line in enumerate(lines):
        dodge = arm_offset(arm, group)
        bands = [(n, mean.ci95) for n, mean in line.items() if mean.ci95]
        if len(bands) > 1:
            lower, upper = ([(n, chart.within(both[end])) for n, both in bands] for end in (0, 1))
            chart.band(lower, upper, arm, dodge)
        chart.line([(n, mean.value) for n, mean in line.items()], arm, dodge=dodge)
        for n, mean in line.items():
            chart.whisker(n, mean.ci95, arm, dodge)
            chart.mark(
                n,
                mean.value,
                arm,
                filled=True,
                tip=f"generation {n}: {mean.value:.4f} over {mean.n} seeds",
                dodge=dodge,
            )
    chart.ends(
        last,
        [
            (line[last].value, format_figure(line[last].value, metric), k)
            for k, line in enumerate(lines)
            if last in line
        ],
    )
    return str(chart)


def charts_by_seed(group: ComparableGroup) -> list[tuple[str, str]]:
    """Return ``(seed, chart)``: every candidate with its interval, and the incumbent as a line."""
    seeds = sorted({run.seed for run in group.runs if run.generations}, key=lambda seed: (seed is None, seed))
    return [(f"seed {seed}", _seed_chart(group, seed)) for seed in seeds[:MAX_SEED_CHARTS]]


def _seed_chart(group: ComparableGroup, seed: int | None) -> str:
    last = _last_generation(group)
    runs = [(arm, run) for arm, side in enumerate(group.sides) for run in side.runs if run.seed == seed]
    description = "; ".join(f"{run.name}: {_describe_run(run)}" for _, run in runs)
    chart = SvgChart(f"seed {seed}, val of each candidate", description, (1, max(last, 2)), _val_range(group))
    chart.frame(_generation_ticks(last), f"{group.sample_run.metric} on val", tick_format(group), "generation")
    for arm, run in runs:
        dodge = arm_offset(arm, group)
        newest = max((g.n for g in run.generations), default=0)
        chart.steps(list(incumbent_values(run, newest).items()), arm, dodge)
        for g in run.generations:
            tip = f"{run.name}, generation {g.n}, {g.lever} {g.algorithm or ''}: {g.status}. {g.reason}"
            if g.val:
                chart.whisker(g.n, g.val.ci95, arm, dodge)
                chart.mark(g.n, g.val.value, arm, filled=g.status == "accepted", tip=tip, dodge=dodge)
            else:
                chart.cross(g.n, arm, tip, dodge)
    return str(chart)


def _describe_run(run: ReportedRun) -> str:
    return ", ".join(f"{g.val.value:.3f} {g.status}" if g.val else g.status for g in run.generations) or "nothing yet"


def chart_curve(values: Sequence[float], name: str, arm: int = 1) -> str:
    """Draw a curve with one value a step."""
    description = f"from {values[0]:.4g} to {values[-1]:.4g}"
    chart = SvgChart(f"{name} by step", description, (1, max(len(values), 2)), padded_range(values))
    chart.frame([(1, "1"), (len(values), str(len(values)))], name, "{:.4g}".format, "step")
    chart.line(list(enumerate(values, 1)), arm)
    return str(chart)


def _last_generation(group: ComparableGroup) -> int:
    return max((g.n for run in group.runs for g in run.generations), default=1)


def _generation_ticks(last: int) -> list[tuple[float, str]]:
    step = max(1, -(-last // 8))
    return [(n, str(n)) for n in range(1, last + 1, step)]


def _val_range(group: ComparableGroup) -> tuple[float, float]:
    """Return the range of all val scores with their intervals, the same for all charts of a group."""
    scores = [g.val for run in group.runs for g in run.generations if g.val]
    return clip_to_shares(group, padded_range([end for val in scores for end in (val.value, *val.ci95)]))


MAX_LABELLED_ARMS = 3  # arms whose names fit into a chart
ARM_GAP = 1.6  # between two arms; initial and best are 1 apart
LETTER_WIDTH = 7  # pixels at most; names that are too long are in the legend only


@dataclass(frozen=True, slots=True)
class _TestColumn:
    """The scores of the first harness, or of the best candidate, of an arm."""

    side: ArmRuns
    name: str
    of: list[tuple[int | None, Score]]  # seed, score

    @property
    def scores(self) -> list[tuple[int | None, float]]:
        return [(seed, score.value) for seed, score in self.of]

    @property
    def reach(self) -> list[float]:
        """The values that must lie within the frame: scores, and the interval if it is that of a single score."""
        own = self.of[0][1].ci95 if len(self.of) == 1 else None
        return [*(value for _, value in self.scores), *(own or ())]

    @property
    def mean(self) -> SeedMean | None:
        """The mean over seeds; for one run with the interval of its own score, which is one over questions."""
        average = mean_per_seed(self.scores)
        own = self.of[0][1].ci95 if len(self.of) == 1 else None
        return replace(average, ci95=own) if average and own else average


def chart_test_scores(group: ComparableGroup) -> str:
    """Draw initial and best: a line a run, and the means with their intervals over seeds."""
    arms = [_test_columns(side) for side in group.sides]
    columns = [column for both in arms for column in both]
    values = [value for column in columns for value in column.reach]
    span = clip_to_shares(group, range_with_intervals(values, [column.mean for column in columns]))
    description = "; ".join(
        f"{column.side.label} {column.name}: {' '.join(f'{value:.3f}' for _, value in column.scores)}"
        for column in columns
    )
    at = [arm * (1 + ARM_GAP) for arm in range(len(arms))]
    chart = SvgChart("test, first harness and best candidate", description, (-0.3, at[-1] + 1.3), span)
    few = len(arms) <= MAX_LABELLED_ARMS
    ticks = [(x + after, column.name) for x, both in zip(at, arms, strict=True) for after, column in enumerate(both)]
    chart.frame(ticks if few else [], f"{group.sample_run.metric} on test", tick_format(group), "")
    for arm, (x, both) in enumerate(zip(at, arms, strict=True)):
        _draw_arm(chart, x, both, arm, group.sample_run.metric if few else None)
    longest = max(len(side.label) for side in group.sides)
    if few and LETTER_WIDTH * longest < chart.x(1 + ARM_GAP) - chart.x(0):
        for arm, (x, side) in enumerate(zip(at, group.sides, strict=True)):
            chart.text(chart.x(x + 0.5), HEIGHT - 6, side.label, "middle", f"label arm{arm}")
    return str(chart)


def _test_columns(side: ArmRuns) -> tuple[_TestColumn, _TestColumn]:
    initial = [(run.seed, run.initial) for run in side.tested if run.initial]
    final = [(run.seed, run.final) for run in side.tested if run.final]
    return _TestColumn(side, "initial", initial), _TestColumn(side, "best", final)


def _draw_arm(chart: SvgChart, x: float, both: tuple[_TestColumn, _TestColumn], arm: int, labelled: str | None) -> None:
    """Draw one arm. `labelled`: the metric, if figures are written above the means, else None."""
    for run in both[0].side.tested:
        if run.initial and run.final:
            chart.line([(x, run.initial.value), (x + 1, run.final.value)], arm, "thread")
    for at, column in enumerate(both):
        for seed, value in column.scores:
            tip = f"{column.side.label}, seed {seed}, {column.name} {value:.4f}"
            chart.mark(x + at, value, arm, filled=False, tip=tip, dodge=9, small=True)
        if mean := column.mean:
            chart.whisker(x + at, mean.ci95, arm)
            chart.mark(x + at, mean.value, arm, filled=True, tip=f"mean {mean.value:.4f} over {mean.n} seeds")
            if labelled:
                highest = max(mean.value, *(value for _, value in column.scores), *(mean.ci95 or ()))
                chart.label(x + at, chart.within(highest), format_figure(mean.value, labelled), arm)


MAX_PAIR_COLUMNS = 16  # columns at most
NORMAL_975 = 1.96
SEEDS_COLUMN = "seeds"


def chart_differences(group: ComparableGroup, contrasts: Sequence[ArmContrast]) -> str:
    """Draw each pair's difference with its normal 95% interval over questions, then the verdict's two intervals."""
    compared = [contrast for contrast in contrasts if contrast.pairs]
    columns = _difference_columns(compared)
    pairs = len(columns) - 2
    spacing = max(1.0, pairs / 5)  # so that the names of the last two fit
    at = [*range(pairs), pairs - 1 + 1.2 * spacing, pairs - 1 + 2.7 * spacing]
    description = "; ".join(
        f"{name}: {' '.join(f'{mean.value:+.3f}' for mean in means if mean)}" for name, means in columns
    )
    span = range_with_intervals(_axis_values(columns), [contrast.over_seeds for contrast in compared])
    chart = SvgChart("difference on test, pair by pair", description, (-0.4, at[-1] + 0.6 * spacing), span)
    chart.frame([(x, name) for x, (name, _) in zip(at, columns, strict=True)], *_difference_axis(group), "")
    chart.text(chart.x(sum(at[-2:]) / 2), HEIGHT - 6, "mean, interval over", "middle")
    chart.level(0)
    for k, contrast in enumerate(compared):
        arm, dodge = group.sides.index(contrast.new), (k - (len(compared) - 1) / 2) * ARM_OFFSET * 1.4
        for at_pair, (x, (name, means)) in enumerate(zip(at, columns, strict=True)):
            if mean := means[k]:
                chart.whisker(x, mean.ci95, arm, dodge)
                tip = f"{contrast.new.label}, {name}: {mean.value:+.4f}"
                chart.mark(x, mean.value, arm, filled=at_pair >= pairs, tip=tip, dodge=dodge)
    return str(chart)


def _axis_values(columns: Sequence[tuple[str, list[SeedMean | None]]]) -> list[float]:
    """Return zero and each difference with its whole interval, but only the mean of the one over seeds."""
    values = [0.0]
    for name, means in columns:
        for mean in means:
            if mean:
                values += [mean.value, *(mean.ci95 or ())] if name != SEEDS_COLUMN else [mean.value]
    return values


def _difference_columns(contrasts: Sequence[ArmContrast]) -> list[tuple[str, list[SeedMean | None]]]:
    """Return column names with a mean for each contrast: a column a seed, and two for their mean."""
    seeds = sorted(
        {pair.seed for contrast in contrasts for pair in contrast.pairs}, key=lambda seed: (seed is None, seed)
    )
    names = ["seed {}" if len(seeds) < 4 else "{}" if len(seeds) <= 10 else ""] * len(seeds)
    each: list[tuple[str, list[SeedMean | None]]] = [
        (name.format(seed), [_pair_mean(contrast, seed) for contrast in contrasts])
        for name, seed in zip(names[:MAX_PAIR_COLUMNS], seeds[:MAX_PAIR_COLUMNS], strict=True)
    ]
    seeds_mean = [contrast.over_seeds for contrast in contrasts]
    return [*each, (SEEDS_COLUMN, seeds_mean), ("questions", [contrast.over_questions for contrast in contrasts])]


def _pair_mean(contrast: ArmContrast, seed: int | None) -> SeedMean | None:
    pair = next((pair for pair in contrast.pairs if pair.seed == seed), None)
    if not pair:
        return None
    half = None if pair.standard_error is None else NORMAL_975 * pair.standard_error
    return SeedMean(
        pair.difference, 1, None, None if half is None else (pair.difference - half, pair.difference + half)
    )


def _difference_axis(group: ComparableGroup) -> tuple[str, Callable[[float], str]]:
    times = metric_scale(group.sample_run.metric)[0]
    unit = "points" if times == 100 else group.sample_run.metric
    return f"difference on test, {unit}", lambda value: f"{times * value:+.4g}" if value else "0"
