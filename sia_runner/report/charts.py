"""Charts of val: over generations, averaged over seeds and seed by seed; and the curves of a weights update."""

from collections.abc import Sequence

from sia_runner.report.axes import bounds, dodged, possible, shown
from sia_runner.report.groups import Group, Side
from sia_runner.report.paper import figure
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
    """Lines of means; bands and whiskers where there are two seeds or more."""
    last, metric = _last(group), group.some.metric
    lines = [averaged(side, last) for side in group.sides]
    told = "; ".join(
        f"{side.label} {' '.join(f'{one.value:.3f}' for one in line.values()) or 'none'}"
        for side, line in zip(group.sides, lines, strict=True)
    )
    ends = [end for line in lines for one in line.values() for end in (one.value, *(one.ci95 or ()))]
    low, high = _range(group)
    # a band of two seeds may leave the scores behind
    span = (max(low - (high - low) / 2, min([low, *ends])), min(high + (high - low) / 2, max([high, *ends])))
    reach = max(last, 2)
    chart = Chart(
        "val of the incumbent by generation, mean over seeds",
        told,
        (1, reach + (reach - 1) * 0.12),
        possible(group, span),
    )
    chart.frame(_generations(last), f"{metric} on val", shown(group), "generation")
    for arm, line in enumerate(lines):
        dodge = dodged(arm, group)
        bands = [(n, one.ci95) for n, one in line.items() if one.ci95]
        if len(bands) > 1:
            lower, upper = ([(n, chart.within(both[end])) for n, both in bands] for end in (0, 1))
            chart.band(lower, upper, arm, dodge)
        chart.line([(n, one.value) for n, one in line.items()], arm, dodge=dodge)
        for n, one in line.items():
            chart.whisker(n, one.ci95, arm, dodge)
            chart.mark(
                n, one.value, arm, filled=True, tip=f"generation {n}: {one.value:.4f} over {one.n} seeds", dodge=dodge
            )
    chart.ends(
        last, [(line[last].value, figure(line[last].value, metric), k) for k, line in enumerate(lines) if last in line]
    )
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
    chart.frame(_generations(last), f"{group.some.metric} on val", shown(group), "generation")
    for arm, run in runs:
        dodge = dodged(arm, group)
        until = max((g.n for g in run.generations), default=0)
        chart.steps(list(incumbents(run, until).items()), arm, dodge)
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


def curve(values: Sequence[float], name: str, arm: int = 1) -> str:
    """One value a step."""
    told = f"from {values[0]:.4g} to {values[-1]:.4g}"
    chart = Chart(f"{name} by step", told, (1, max(len(values), 2)), bounds(values))
    chart.frame([(1, "1"), (len(values), str(len(values)))], name, "{:.4g}".format, "step")
    chart.line(list(enumerate(values, 1)), arm)
    return str(chart)


def _last(group: Group) -> int:
    return max((g.n for run in group.runs for g in run.generations), default=1)


def _generations(last: int) -> list[tuple[float, str]]:
    apart = max(1, -(-last // 8))
    return [(n, str(n)) for n in range(1, last + 1, apart)]


def _range(group: Group) -> tuple[float, float]:
    """Of every score on val and its interval: all charts of a group have the same, so that they can be compared."""
    scores = [g.val for run in group.runs for g in run.generations if g.val]
    return possible(group, bounds([end for one in scores for end in (one["value"], *(one["ci95"] or ()))]))
