"""Charts of a group: val over generations, over seeds and seed by seed; test before and after; curves of an update."""

from collections.abc import Sequence

from sia_runner.report.groups import Group, Side
from sia_runner.report.paper import scale
from sia_runner.report.runs import Ran
from sia_runner.report.statistics import Mean, per_seed
from sia_runner.report.svg import Chart

SEEDS = 24  # drawn one by one
ENDED = ("completed", "budget")


def incumbents(run: Ran, last: int) -> dict[int, float]:
    """Generation -> val of the best accepted so far, carried on to generation `last`."""
    found: dict[int, float] = {}
    now: float | None = None
    accepted = {g.n: g.val["value"] for g in run.generations if g.status == "accepted" and g.val}
    for n in range(1, last + 1):
        now = accepted.get(n, now)
        if now is not None:
            found[n] = now
    return found


def averaged(side: Side, last: int) -> dict[int, Mean]:
    """Generation -> the incumbent's val over the runs that ended, where all of them have one."""
    each = [(run.seed, incumbents(run, last)) for run in side.runs if run.status in ENDED and run.best]
    shared = [n for n in range(1, last + 1) if each and all(n in one for _, one in each)]
    return {n: found for n in shared if (found := per_seed([(seed, one[n]) for seed, one in each]))}


def over_seeds(group: Group) -> str:
    """Lines of means; bands where there are two seeds or more."""
    last = _last(group)
    lines = [averaged(side, last) for side in group.sides]
    told = "; ".join(
        f"{side.label} {' '.join(f'{one.value:.3f}' for one in line.values()) or 'none'}"
        for side, line in zip(group.sides, lines, strict=True)
    )
    chart = Chart("val of the incumbent by generation, mean over seeds", told, (1, max(last, 2)), _range(group))
    chart.frame(_generations(last), group.some.metric, _percent(group), "generation")
    for arm, line in enumerate(lines):
        bands = [(n, one.ci95) for n, one in line.items() if one.ci95]
        if len(bands) > 1:
            low, high = ([(n, _within(chart, both[end])) for n, both in bands] for end in (0, 1))
            chart.band(low, high, arm)
        chart.line([(n, one.value) for n, one in line.items()], arm)
        for n, one in line.items():
            chart.mark(n, one.value, arm, filled=True, tip=f"generation {n}: {one.value:.4f} over {one.n} seeds")
    return str(chart)


def by_seed(group: Group) -> list[tuple[str, str]]:
    """``(seed, chart)``: every candidate with its interval, and the incumbent as a line."""
    seeds = sorted({run.seed for run in group.runs if run.generations}, key=lambda seed: (seed is None, seed))
    return [(f"seed {seed}", _of_seed(group, seed)) for seed in seeds[:SEEDS]]


def _of_seed(group: Group, seed: int | None) -> str:
    last = _last(group)
    runs = [(arm, run) for arm, side in enumerate(group.sides) for run in side.runs if run.seed == seed]
    told = "; ".join(f"{run.name}: {_told(run)}" for _, run in runs)
    chart = Chart(f"seed {seed}, val of each candidate", told, (1, max(last, 2)), _range(group))
    chart.frame(_generations(last), group.some.metric, _percent(group), "generation")
    for arm, run in runs:
        dodge = (arm - (len(group.sides) - 1) / 2) * 7
        until = max((g.n for g in run.generations), default=0)
        chart.steps(list(incumbents(run, until).items()), arm)
        for g in run.generations:
            tip = f"{run.name}, generation {g.n}, {g.lever} {g.algorithm or ''}: {g.status}. {g.reason}"
            if g.val:
                chart.whisker(g.n, g.val["ci95"], arm, dodge)
                chart.mark(g.n, g.val["value"], arm, filled=g.status == "accepted", tip=tip, dodge=dodge)
            else:
                chart.cross(g.n, arm, tip, dodge)
    return str(chart)


def _told(run: Ran) -> str:
    return (
        ", ".join(f"{g.val['value']:.3f} {g.status}" if g.val else g.status for g in run.generations) or "nothing yet"
    )


def on_test(group: Group) -> str:
    """Initial and best on test: a dot a run, the mean with its interval over seeds."""
    columns: list[tuple[int, str, list[tuple[int | None, float]]]] = []
    for arm, side in enumerate(group.sides):
        first = [(run.seed, run.initial["value"]) for run in side.tested if run.initial]
        columns.append((arm, "initial", first))
        columns.append((arm, "best", [(run.seed, run.final["value"]) for run in side.tested if run.final]))
    bounds = _bounds([value for _, _, values in columns for _, value in values])
    told = "; ".join(
        f"{group.sides[arm].label} {name}: {' '.join(f'{v:.3f}' for _, v in values)}" for arm, name, values in columns
    )
    chart = Chart("test, first harness and best candidate", told, (0, max(len(columns) - 1, 1)), bounds)
    names = [(at, name) for at, (_, name, _) in enumerate(columns)] if len(columns) <= 8 else []
    chart.frame(names, f"{group.some.metric} on test", _percent(group), "")
    for at, (arm, name, values) in enumerate(columns):
        for _, value in values:
            chart.mark(at, value, arm, filled=False, tip=f"{name} {value:.4f}", dodge=6, small=True)
        if middle := per_seed(values):
            chart.whisker(at, middle.ci95 and [_within(chart, end) for end in middle.ci95], arm, -4)
            chart.mark(
                at, middle.value, arm, filled=True, tip=f"mean {middle.value:.4f} over {middle.n} seeds", dodge=-4
            )
    return str(chart)


def curve(values: Sequence[float], name: str, arm: int = 1) -> str:
    """One value a step."""
    chart = Chart(
        f"{name} by step", f"from {values[0]:.4g} to {values[-1]:.4g}", (1, max(len(values), 2)), _bounds(values)
    )
    chart.frame([(1, "1"), (len(values), str(len(values)))], name, False, "step")
    chart.line(list(enumerate(values, 1)), arm)
    return str(chart)


def _last(group: Group) -> int:
    return max((g.n for run in group.runs for g in run.generations), default=1)


def _percent(group: Group) -> bool:
    return scale(group.some.metric)[0] == 100


def _generations(last: int) -> list[tuple[float, str]]:
    apart = max(1, -(-last // 8))
    return [(n, str(n)) for n in range(1, last + 1, apart)]


def _range(group: Group) -> tuple[float, float]:
    """Of every score on val and its interval: all charts of a group have the same, so that they can be compared."""
    scores = [g.val for run in group.runs for g in run.generations if g.val]
    return _bounds([end for one in scores for end in (one["value"], *(one["ci95"] or ()))])


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return (0.0, 1.0)
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.05 or 0.05
    return (low - room, high + room)


def _within(chart: Chart, value: float) -> float:
    """Cut at the frame: an interval of two seeds may leave every scale behind."""
    return min(max(value, chart.y.low), chart.y.high)
