"""The table of the paper, initial / prior / SIA-H / SIA-W+H for each task, as data, Markdown and LaTeX."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sia_runner.ground.plaintext import cell, one_line
from sia_runner.report.contrasts import Contrast
from sia_runner.report.groups import Group, H, Side
from sia_runner.report.statistics import Mean, per_seed

OTHER = "protocol differs"
_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {character: f"\\{character}" for character in "&%$#_{}"}
_TEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table, with means over the seeds of the runs with a test score, in metric units.

    `detail`: of `label`. `missing`: runs of these arms without a test score. `gain`: of the pairs, `verdict`: on it. In
    a row of published figures `prior` is what they were compared with, nothing is missing, and the verdict is that the
    protocol differs.
    """

    label: str
    detail: str
    metric: str
    initial: Mean | None
    h: Mean | None
    wh: Mean | None
    gain: Mean | None
    verdict: str
    missing: int = 0
    prior: Mean | None = None
    published: bool = False


def rows(group: Group, against: Sequence[Contrast]) -> list[Row]:
    """Return the rows of a group.

    There is one for each arm with a trainer beside its SIA-H, or one for SIA-H alone, then one for published figures if
    the task declares any.
    """
    table = [_row(group, contrast.old, contrast.new, contrast) for contrast in against]
    paired = [side for contrast in against for side in (contrast.old, contrast.new)]
    unpaired = [side for side in group.sides if side not in paired]
    table += [_row(group, *((side, None) if side.mode == H else (None, side)), None) for side in unpaired]
    return table + ([_published(group)] if group.published else [])


def _published(group: Group) -> Row:
    declared, metric = group.published, group.sample_run.metric
    initial, prior, h, wh = (
        Mean(float(value), 1) if isinstance(value := declared.get(key), int | float) else None
        for key in ("initial", "prior", "sia_h", "sia_wh")
    )
    gain = Mean(wh.value - h.value, 1) if h and wh else None
    source = f"{declared.get('source', 'no source given')}"
    return Row(f"{group.label}, published", source, metric, initial, h, wh, gain, OTHER, prior=prior, published=True)


def _row(group: Group, old: Side | None, new: Side | None, contrast: Contrast | None) -> Row:
    sides = [side for side in (old, new) if side]
    tested = [run for side in sides for run in side.tested]
    metric = group.sample_run.metric
    unit = f"{metric} (%)" if scale(metric)[0] == 100 else metric
    return Row(
        label=group.label,
        detail=" · ".join(part for part in (new.trainer if new else "", *sides[0].variant, unit) if part),
        metric=metric,
        initial=per_seed([(run.seed, run.initial["value"]) for run in tested if run.initial]),
        h=_mean(old),
        wh=_mean(new),
        gain=contrast and contrast.over_seeds,
        verdict=contrast.verdict if contrast else "",
        missing=sum(len(side.runs) for side in sides) - len(tested),
    )


def _mean(side: Side | None) -> Mean | None:
    return per_seed([(run.seed, run.final["value"]) for run in side.tested if run.final]) if side else None


def scale(metric: str) -> tuple[float, str]:
    """Return the factor and format of a metric. Accuracy is in percent, as in the paper; others in their own units."""
    return (100.0, ".1f") if metric == "accuracy" else (1.0, ".4g")


def figure(value: float | Mean | None, metric: str, *, sign: bool = False) -> str:
    """Format ``42.3`` or ``42.3 ± 1.2`` (standard deviation over seeds), a dash for None."""
    if value is None:
        return "–"
    times, spec = scale(metric)
    middle, sd = (value.value, value.sd) if isinstance(value, Mean) else (value, None)
    formatted = format(times * middle, f"{'+' if sign else ''}{spec}")
    return formatted if sd is None else f"{formatted} ± {times * sd:{spec}}"


def ends(interval: Sequence[float] | None, metric: str, *, sign: bool = False) -> str:
    """Format an interval ``[39.1, 45.5]``; "" for None."""
    times, spec = scale(metric)
    spec = f"{'+' if sign else ''}{spec}"
    return f"[{', '.join(format(times * end, spec) for end in interval)}]" if interval else ""


def gained(mean: Mean | None, metric: str) -> str:
    """Format a gain with its interval if it has one: ``+42.3 [+40.1, +44.5]``."""
    both = ends(mean and mean.ci95, metric, sign=True)
    return f"{figure(mean and mean.value, metric, sign=True)}{both and f' {both}'}"


def columns(table: Sequence[Row]) -> list[str]:
    """Return the heads of the columns."""
    prior = ["Prior"] if any(row.prior for row in table) else []
    return ["Task", "Initial", *prior, "SIA-H", "SIA-W+H", "W+H − H", "Verdict", "Seeds"]


def cells(row: Row, prior: bool) -> list[str]:
    """Return the cells of a row, in the order of `columns`; the first includes the detail."""
    seed_count = max((mean.n for mean in (row.h, row.wh) if mean), default=0)
    fewer = f" ({row.initial.n} of {seed_count} seeds)" if row.initial and row.initial.n < seed_count else ""
    figures = [f"{figure(row.initial, row.metric)}{fewer}", *([figure(row.prior, row.metric)] if prior else [])]
    figures += [figure(row.h, row.metric), figure(row.wh, row.metric), gained(row.gain, row.metric)]
    missing = f" ({row.missing} without a score)" if row.missing else ""
    seeds = "–" if row.published else "/".join(str(mean.n) if mean else "0" for mean in (row.h, row.wh))
    return [f"{row.label} · {row.detail}", *figures, row.verdict or "–", f"{seeds}{missing}"]


def markdown(table: Sequence[Row], captions: Sequence[str]) -> str:
    """Return the table and its captions in Markdown."""
    head = columns(table)
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 3) + "---|---:|"]
    for row in table:
        first, *others = cells(row, "Prior" in head)
        lines.append("| " + " | ".join([cell(first), *map(prose, others)]) + " |")
    return "\n".join([*lines, "", "\n\n".join(prose(caption, 2000) for caption in captions)]) + "\n"


def prose(text: str, limit: int = 200) -> str:
    """Escape `text` for Markdown, so that it makes no link, picture, mark-up or second column."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", one_line(text, limit))


def latex(table: Sequence[Row], captions: Sequence[str]) -> str:
    r"""Return the table for ``\usepackage{booktabs}``. Everything that TeX would read as a command is escaped."""
    head = columns(table)
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(head) - 3)}lr}}", r"\toprule"]
    lines += [" & ".join(map(tex, head)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(tex, cells(row, "Prior" in head))) + r" \\" for row in table]
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{tex(' '.join(captions), 2000)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def tex(text: str, limit: int = 200) -> str:
    """Escape `text` for LaTeX."""
    escaped = "".join(_TEX.get(character, character) for character in one_line(text, limit))
    if escaped.startswith(("[", "*")):
        escaped = f"{{}}{escaped}"  # after the end of a row TeX would read these as its arguments
    for character, command in (("±", r"$\pm$"), ("−", "$-$"), ("·", r"$\cdot$"), ("–", "--"), ("…", r"\dots{}")):
        escaped = escaped.replace(character, command)
    return escaped
