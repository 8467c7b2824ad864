"""Charts of val over generations, averaged over seeds and seed by seed, and the curves of a weights update."""

from collections.abc import Sequence

from sia_runner.report.axes import bounds, dodged, possible, shown
from sia_runner.report.groups import Group, Side
from sia_runner.report.paper import figure
from sia_runner.report.runs import Ran
from sia_runner.report.statistics import Mean, per_seed
from sia_runner.report.svg import Chart

SEEDS = 24  # charts of single seeds at most
ENDED = ("completed", "budget")


def incumbents(run: Ran, last: int) -> dict[int, float]:
    """Return generation -> val of the best accepted so far, carried on to generation `last`."""
    best: dict[int, float] = {}
    current: float | None = None
    accepted = {g.n: g.val["value"] for g in run.generations if g.status == "accepted" and g.val}
    for n in range(1, last + 1):
        current = accepted.get(n, current)
        if current is not None:
            best[n] = current
    return best


def averaged(side: Side, last: int) -> dict[int, Mean]:
    """Return generation -> the incumbent's val over the runs that ended, where all of them have one."""
    each = [(run.seed, incumbents(run, last)) for run in side.runs if run.status in ENDED and run.best]
    shared = [n for n in range(1, last + 1) if each and all(n in scores for _, scores in each)]
    return {n: average for n in shared if (average := per_seed([(seed, scores[n]) for seed, scores in each]))}


def over_seeds(group: Group) -> str:
    """Draw lines of means, with bands and whiskers if there are two seeds or more."""
    last, metric = _last_generation(group), group.sample_run.metric
    lines = [averaged(side, last) for side in group.sides]
    description = "; ".join(
        f"{side.label} {' '.join(f'{mean.value:.3f}' for mean in line.values()) or 'none'}"
        for side, line in zip(group.sides, lines, strict=True)
    )
    ends = [end for line in lines for mean in line.values() for end in (mean.value, *(mean.ci95 or ()))]
    low, high = _val_range(group)
    # a band of only two seeds may be far wider than the scores
    span = (max(low - (high - low) / 2, min([low, *ends])), min(high + (high - low) / 2, max([high, *ends])))
    reach = max(last, 2)
    chart = Chart(
        "val of the incumbent by generation, mean over seeds",
        description,
        (1, reach + (reach - 1) * 0.12),
        possible(group, span),
    )
    chart.frame(_generation_ticks(last), f"{metric} on val", shown(group), "generation")
    for arm, line in enumerate(lines):
        dodge = dodged(arm, group)
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
        last, [(line[last].value, figure(line[last].value, metric), k) for k, line in enumerate(lines) if last in line]
    )
    return str(chart)


def by_seed(group: Group) -> list[tuple[str, str]]:
    """Return ``(seed, chart)``: every candidate with its interval, and the incumbent as a line."""
    seeds = sorted({run.seed for run in group.runs if run.generations}, key=lambda seed: (seed is None, seed))
    return [(f"seed {seed}", _seed_chart(group, seed)) for seed in seeds[:SEEDS]]


def _seed_chart(group: Group, seed: int | None) -> str:
    last = _last_generation(group)
    runs = [(arm, run) for arm, side in enumerate(group.sides) for run in side.runs if run.seed == seed]
    description = "; ".join(f"{run.name}: {_describe_run(run)}" for _, run in runs)
    chart = Chart(f"seed {seed}, val of each candidate", description, (1, max(last, 2)), _val_range(group))
    chart.frame(_generation_ticks(last), f"{group.sample_run.metric} on val", shown(group), "generation")
    for arm, run in runs:
        dodge = dodged(arm, group)
        newest = max((g.n for g in run.generations), default=0)
        chart.steps(list(incumbents(run, newest).items()), arm, dodge)
        for g in run.generations:
            tip = f"{run.name}, generation {g.n}, {g.lever} {g.algorithm or ''}: {g.status}. {g.reason}"
            if g.val:
                chart.whisker(g.n, g.val["ci95"], arm, dodge)
                chart.mark(g.n, g.val["value"], arm, filled=g.status == "accepted", tip=tip, dodge=dodge)
            else:
                chart.cross(g.n, arm, tip, dodge)
    return str(chart)


def _describe_run(run: Ran) -> str:
    return (
        ", ".join(f"{g.val['value']:.3f} {g.status}" if g.val else g.status for g in run.generations) or "nothing yet"
    )


def curve(values: Sequence[float], name: str, arm: int = 1) -> str:
    """Draw a curve with one value a step."""
    description = f"from {values[0]:.4g} to {values[-1]:.4g}"
    chart = Chart(f"{name} by step", description, (1, max(len(values), 2)), bounds(values))
    chart.frame([(1, "1"), (len(values), str(len(values)))], name, "{:.4g}".format, "step")
    chart.line(list(enumerate(values, 1)), arm)
    return str(chart)


def _last_generation(group: Group) -> int:
    return max((g.n for run in group.runs for g in run.generations), default=1)


def _generation_ticks(last: int) -> list[tuple[float, str]]:
    step = max(1, -(-last // 8))
    return [(n, str(n)) for n in range(1, last + 1, step)]


def _val_range(group: Group) -> tuple[float, float]:
    """Return the range of all val scores with their intervals, the same for all charts of a group."""
    scores = [g.val for run in group.runs for g in run.generations if g.val]
    return possible(group, bounds([end for val in scores for end in (val["value"], *(val["ci95"] or ()))]))
