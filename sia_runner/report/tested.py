"""The chart of test: the first harness and the best candidate of each run, and their means."""

from dataclasses import dataclass, replace

from sia_runner.report.axes import possible, shown, with_intervals
from sia_runner.report.groups import Group, Side
from sia_runner.report.kept import Json
from sia_runner.report.paper import figure
from sia_runner.report.statistics import Mean, per_seed
from sia_runner.report.svg import HEIGHT, Chart

LABELLED = 3  # arms whose names fit into a chart
GAP = 1.6  # between two arms; initial and best are 1 apart
LETTER = 7  # pixels at most; names that are too long are in the legend only


@dataclass(frozen=True, slots=True)
class _Column:
    """The scores of the first harness, or of the best candidate, of an arm."""

    side: Side
    name: str
    of: list[tuple[int | None, Json]]  # seed, score

    @property
    def scores(self) -> list[tuple[int | None, float]]:
        return [(seed, score["value"]) for seed, score in self.of]

    @property
    def reach(self) -> list[float]:
        """The values that must lie within the frame: scores, and the interval if it is that of a single score."""
        own = self.of[0][1]["ci95"] if len(self.of) == 1 else None
        return [*(value for _, value in self.scores), *(own or ())]

    @property
    def mean(self) -> Mean | None:
        """The mean over seeds; for one run with the interval of its own score, which is one over questions."""
        average = per_seed(self.scores)
        own = self.of[0][1]["ci95"] if len(self.of) == 1 else None
        return replace(average, ci95=(own[0], own[1])) if average and own else average


def on_test(group: Group) -> str:
    """Draw initial and best: a line a run, and the means with their intervals over seeds."""
    arms = [_columns_of(side) for side in group.sides]
    columns = [column for both in arms for column in both]
    values = [value for column in columns for value in column.reach]
    span = possible(group, with_intervals(values, [column.mean for column in columns]))
    description = "; ".join(
        f"{column.side.label} {column.name}: {' '.join(f'{value:.3f}' for _, value in column.scores)}"
        for column in columns
    )
    at = [arm * (1 + GAP) for arm in range(len(arms))]
    chart = Chart("test, first harness and best candidate", description, (-0.3, at[-1] + 1.3), span)
    few = len(arms) <= LABELLED
    ticks = [(x + after, column.name) for x, both in zip(at, arms, strict=True) for after, column in enumerate(both)]
    chart.frame(ticks if few else [], f"{group.sample_run.metric} on test", shown(group), "")
    for arm, (x, both) in enumerate(zip(at, arms, strict=True)):
        _draw(chart, x, both, arm, group.sample_run.metric if few else None)
    longest = max(len(side.label) for side in group.sides)
    if few and LETTER * longest < chart.x(1 + GAP) - chart.x(0):
        for arm, (x, side) in enumerate(zip(at, group.sides, strict=True)):
            chart.text(chart.x(x + 0.5), HEIGHT - 6, side.label, "middle", f"label arm{arm}")
    return str(chart)


def _columns_of(side: Side) -> tuple[_Column, _Column]:
    initial = [(run.seed, run.initial) for run in side.tested if run.initial]
    final = [(run.seed, run.final) for run in side.tested if run.final]
    return _Column(side, "initial", initial), _Column(side, "best", final)


def _draw(chart: Chart, x: float, both: tuple[_Column, _Column], arm: int, labelled: str | None) -> None:
    """Draw one arm. `labelled`: the metric, if figures are written above the means, else None."""
    for run in both[0].side.tested:
        if run.initial and run.final:
            chart.line([(x, run.initial["value"]), (x + 1, run.final["value"])], arm, "thread")
    for at, column in enumerate(both):
        for seed, value in column.scores:
            tip = f"{column.side.label}, seed {seed}, {column.name} {value:.4f}"
            chart.mark(x + at, value, arm, filled=False, tip=tip, dodge=9, small=True)
        if mean := column.mean:
            chart.whisker(x + at, mean.ci95, arm)
            chart.mark(x + at, mean.value, arm, filled=True, tip=f"mean {mean.value:.4f} over {mean.n} seeds")
            if labelled:
                highest = max(mean.value, *(value for _, value in column.scores), *(mean.ci95 or ()))
                chart.label(x + at, chart.within(highest), figure(mean.value, labelled), arm)
