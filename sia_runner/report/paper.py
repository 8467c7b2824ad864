"""The table of the paper: a row for each task, initial / prior / SIA-H / SIA-W+H. As data, Markdown and LaTeX."""

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
    """Means over the seeds of the runs with a test score, in metric units. `detail`: of `label`. `missing`: runs of
    these arms without a test score. `gain`: of the pairs, `verdict`: on it. Of a published row `prior` is what it
    was compared with, nothing is missing, and the verdict is that the protocol differs."""

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
    """One for each arm with a trainer beside its SIA-H; one for SIA-H alone where there is no other. Then what others
    published, where the task declares it."""
    found = [_row(group, contrast.old, contrast.new, contrast) for contrast in against]
    paired = [side for contrast in against for side in (contrast.old, contrast.new)]
    alone = [side for side in group.sides if side not in paired]
    found += [_row(group, *((side, None) if side.mode == H else (None, side)), None) for side in alone]
    return found + ([_published(group)] if group.published else [])


def _published(group: Group) -> Row:
    declared, metric = group.published, group.some.metric
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
    metric = group.some.metric
    unit = f"{metric} (%)" if scale(metric)[0] == 100 else metric
    return Row(
        label=group.label,
        detail=" · ".join(part for part in (new.trainer if new else "", *sides[0].apart, unit) if part),
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
    """Accuracy is told in percent, as the paper does; anything else in its own units."""
    return (100.0, ".1f") if metric == "accuracy" else (1.0, ".4g")


def figure(value: float | Mean | None, metric: str, *, sign: bool = False) -> str:
    """``42.3`` or ``42.3 ± 1.2`` (standard deviation over seeds); a dash where there is none."""
    if value is None:
        return "–"
    times, spec = scale(metric)
    middle, sd = (value.value, value.sd) if isinstance(value, Mean) else (value, None)
    shown = format(times * middle, f"{'+' if sign else ''}{spec}")
    return shown if sd is None else f"{shown} ± {times * sd:{spec}}"


def ends(interval: Sequence[float] | None, metric: str, *, sign: bool = False) -> str:
    """``[39.1, 45.5]``; nothing where there is none."""
    times, spec = scale(metric)
    spec = f"{'+' if sign else ''}{spec}"
    return f"[{', '.join(format(times * end, spec) for end in interval)}]" if interval else ""


def gained(mean: Mean | None, metric: str) -> str:
    """``+42.3 [+40.1, +44.5]``: with its interval, where it has one."""
    both = ends(mean and mean.ci95, metric, sign=True)
    return f"{figure(mean and mean.value, metric, sign=True)}{both and f' {both}'}"


def columns(table: Sequence[Row]) -> list[str]:
    prior = ["Prior"] if any(row.prior for row in table) else []
    return ["Task", "Initial", *prior, "SIA-H", "SIA-W+H", "W+H − H", "Verdict", "Seeds"]


def cells(row: Row, prior: bool) -> list[str]:
    """As `columns`, the first with its detail."""
    most = max((one.n for one in (row.h, row.wh) if one), default=0)
    fewer = f" ({row.initial.n} of {most} seeds)" if row.initial and row.initial.n < most else ""
    shown = [f"{figure(row.initial, row.metric)}{fewer}", *([figure(row.prior, row.metric)] if prior else [])]
    shown += [figure(row.h, row.metric), figure(row.wh, row.metric), gained(row.gain, row.metric)]
    missing = f" ({row.missing} without a score)" if row.missing else ""
    seeds = "–" if row.published else "/".join(str(one.n) if one else "0" for one in (row.h, row.wh))
    return [f"{row.label} · {row.detail}", *shown, row.verdict or "–", f"{seeds}{missing}"]


def markdown(table: Sequence[Row], captions: Sequence[str]) -> str:
    head = columns(table)
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 3) + "---|---:|"]
    for row in table:
        first, *others = cells(row, "Prior" in head)
        lines.append("| " + " | ".join([cell(first), *map(prose, others)]) + " |")
    return "\n".join([*lines, "", "\n\n".join(prose(one, 2000) for one in captions)]) + "\n"


def prose(text: str, most: int = 200) -> str:
    """Markdown that shows `text`: no link, picture, mark-up or second column can come of it."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", one_line(text, most))


def latex(table: Sequence[Row], captions: Sequence[str]) -> str:
    """For ``\\usepackage{booktabs}``; everything that TeX would read as a command is escaped."""
    head = columns(table)
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(head) - 3)}lr}}", r"\toprule"]
    lines += [" & ".join(map(tex, head)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(tex, cells(row, "Prior" in head))) + r" \\" for row in table]
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{tex(' '.join(captions), 2000)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def tex(text: str, most: int = 200) -> str:
    shown = "".join(_TEX.get(character, character) for character in one_line(text, most))
    shown = f"{{}}{shown}" if shown.startswith(("[", "*")) else shown  # behind the end of a row these are its arguments
    for character, command in (("±", r"$\pm$"), ("−", "$-$"), ("·", r"$\cdot$"), ("–", "--"), ("…", r"\dots{}")):
        shown = shown.replace(character, command)
    return shown
