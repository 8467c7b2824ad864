"""The table of the paper: a row for each task, initial / prior / SIA-H / SIA-W+H. As data, Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass

from sia_runner.plaintext import cell, one_line
from sia_runner.report.contrasts import Contrast
from sia_runner.report.groups import Group, H, Side
from sia_runner.report.statistics import Mean, per_seed

_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {character: f"\\{character}" for character in "&%$#_{}"}


@dataclass(frozen=True, slots=True)
class Row:
    """Means over the seeds of the runs with a test score, in metric units; `prior`: published, as the task declares it.
    `missing`: runs of these arms without a test score. `gain`: of the pairs, `verdict`: on it."""

    label: str
    metric: str
    arm: str  # of the W+H column
    apart: str
    questions: int | None
    initial: Mean | None
    prior: float | None
    h: Mean | None
    wh: Mean | None
    gain: Mean | None
    verdict: str
    missing: int


def rows(group: Group, against: Sequence[Contrast]) -> list[Row]:
    """One for each arm with a trainer beside its SIA-H; one for SIA-H alone where there is no other."""
    found = [_row(group, contrast.old, contrast.new, contrast) for contrast in against]
    paired = [side for contrast in against for side in (contrast.old, contrast.new)]
    alone = [side for side in group.sides if side not in paired]
    return found + [_row(group, *((side, None) if side.mode == H else (None, side)), None) for side in alone]


def _row(group: Group, old: Side | None, new: Side | None, contrast: Contrast | None) -> Row:
    sides = [side for side in (old, new) if side]
    tested = [run for side in sides for run in side.tested]
    prior = group.published.get("prior")
    return Row(
        label=group.label,
        metric=group.some.metric,
        arm=new.trainer if new else "",
        apart=" · ".join(sides[0].apart),
        questions=next((run.final["n"] for run in tested if run.final), None),
        initial=per_seed([(run.seed, run.initial["value"]) for run in tested if run.initial]),
        prior=float(prior) if isinstance(prior, int | float) else None,
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


def columns(table: Sequence[Row]) -> list[str]:
    prior = ["Prior"] if any(row.prior is not None for row in table) else []
    return ["Task", "Initial", *prior, "SIA-H", "SIA-W+H", "W+H − H", "Verdict", "Seeds"]


def cells(row: Row, prior: bool) -> list[str]:
    unit = " (%)" if scale(row.metric)[0] == 100 else ""
    named = " · ".join(part for part in (row.label, row.arm, row.apart, f"{row.metric}{unit}") if part)
    seeds = "/".join(str(one.n) if one else "0" for one in (row.h, row.wh))
    shown = [figure(row.initial, row.metric), *([figure(row.prior, row.metric)] if prior else [])]
    shown += [figure(row.h, row.metric), figure(row.wh, row.metric), figure(row.gain, row.metric, sign=True)]
    missing = f" ({row.missing} without a score)" if row.missing else ""
    return [named, *shown, row.verdict or "–", f"{seeds}{missing}"]


def markdown(table: Sequence[Row], captions: Sequence[str]) -> str:
    head = columns(table)
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 3) + "---|---:|"]
    for row in table:
        first, *others = cells(row, "Prior" in head)
        lines.append("| " + " | ".join([cell(first), *(one_line(text).replace("|", "\\|") for text in others)]) + " |")
    return "\n".join([*lines, "", "\n\n".join(captions)]) + "\n"


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
    for character, command in (("±", r"$\pm$"), ("−", "$-$"), ("·", r"$\cdot$"), ("–", "--"), ("…", r"\dots{}")):
        shown = shown.replace(character, command)
    return shown
