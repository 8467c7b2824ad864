"""The tables of a report: the paper's table in Markdown and LaTeX, its captions, and unrounded CSV."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sia_runner.records import Json, score_columns
from sia_runner.results.report.analysis import ArmContrast, ArmRuns, ComparableGroup, ReportSection, SeedMean
from sia_runner.results.report.runs import ReportedRun
from sia_runner.text import one_line, table_cell

_TEX_ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
_TEX_ESCAPES |= {">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "−": "$-$", "·": r"$\cdot$", "–": "--"}
_TEX_ESCAPES |= {"…": r"\dots{}"} | {character: f"\\{character}" for character in "&%$#_{}"}


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A row of the table, with means over the seeds of the runs with a test score, in metric units."""

    label: str
    detail: str
    metric: str
    initial: SeedMean | None
    h: SeedMean | None
    wh: SeedMean | None
    gain: SeedMean | None  # of the pairs
    verdict: str
    missing: int = 0  # runs of these arms without a test score
    prior: SeedMean | None = None  # what published figures were compared with
    published: bool = False
    control: SeedMean | None = None  # what an equal budget bought without improvement


def paper_table(sections: Sequence[ReportSection]) -> list[PaperRow]:
    """Return the rows of all groups."""
    return [row for section in sections for row in paper_rows(section.group, section.contrasts)]


def paper_rows(group: ComparableGroup, against: Sequence[ArmContrast]) -> list[PaperRow]:
    """Return a row for each arm with a trainer beside its SIA-H, or for SIA-H alone, then one for published figures."""
    gains = [contrast for contrast in against if contrast.is_weights_gain]
    table = [_paper_row(group, contrast.old, contrast.new, contrast) for contrast in gains]
    paired = [side for contrast in gains for side in (contrast.old, contrast.new)]
    unpaired = [side for side in group.sides if side not in paired]
    improved = [side for side in unpaired if not side.control]
    table += [_paper_row(group, *((None, side) if side.trained else (side, None)), None) for side in improved]
    table += [_control_row(group, side, against) for side in group.sides if side.control]
    return table + ([_published_row(group)] if group.published else [])


def _control_row(group: ComparableGroup, side: ArmRuns, against: Sequence[ArmContrast]) -> PaperRow:
    row = _paper_row(group, side, None, None)
    verdicts = [f"{c.new.label}: {c.verdict}" for c in against if c.old is side and not c.new.control and c.pairs]
    detail = f"{side.label}, equal budget · {row.detail}"
    return replace(row, detail=detail, control=row.h, h=None, verdict="; ".join(verdicts))


def _published_row(group: ComparableGroup) -> PaperRow:
    declared, metric, label = group.published, group.sample_run.metric, f"{group.label}, published"
    initial, prior, h, wh = (
        SeedMean(float(value), 1) if isinstance(value := declared.get(key), int | float) else None
        for key in ("initial", "prior", "sia_h", "sia_wh")
    )
    gain = SeedMean(wh.value - h.value, 1) if h and wh else None
    source = str(declared.get("source", "no source given"))
    return PaperRow(label, source, metric, initial, h, wh, gain, "protocol differs", prior=prior, published=True)


def _paper_row(
    group: ComparableGroup, old: ArmRuns | None, new: ArmRuns | None, contrast: ArmContrast | None
) -> PaperRow:
    sides = [side for side in (old, new) if side]
    tested = [run for side in sides for run in side.tested]
    h, wh = (
        SeedMean.per_seed([(run.seed, run.final.value) for run in side.tested if run.final]) if side else None
        for side in (old, new)
    )
    metric = group.sample_run.metric
    unit = f"{metric} (%)" if is_percent(metric) else metric
    return PaperRow(
        label=group.label,
        detail=" · ".join([*(new or sides[0]).details, unit]),
        metric=metric,
        initial=SeedMean.per_seed([(run.seed, run.initial.value) for run in tested if run.initial]),
        h=h,
        wh=wh,
        gain=contrast and contrast.over_seeds,
        verdict=contrast.verdict if contrast else "",
        missing=sum(len(side.runs) for side in sides) - len(tested),
    )


def is_percent(metric: str) -> bool:
    """Check for accuracy, which is in percent, as in the paper; other metrics are in their own units."""
    return metric == "accuracy"


def metric_scale(metric: str) -> tuple[float, str]:
    """Return the factor and format of a metric."""
    return (100.0, ".1f") if is_percent(metric) else (1.0, ".4g")


def format_figure(value: float | SeedMean | None, metric: str, *, sign: bool = False) -> str:
    """Format ``42.3`` or ``42.3 ± 1.2`` (standard deviation over seeds), a dash for None."""
    if value is None:
        return "–"
    times, spec = metric_scale(metric)
    middle, sd = (value.value, value.sd) if isinstance(value, SeedMean) else (value, None)
    formatted = format(times * middle, f"{'+' if sign else ''}{spec}")
    return formatted if sd is None else f"{formatted} ± {times * sd:{spec}}"


def format_interval(interval: Sequence[float] | None, metric: str, *, sign: bool = False) -> str:
    """Format an interval ``[39.1, 45.5]``; "" for None."""
    times, spec = metric_scale(metric)
    spec = f"{'+' if sign else ''}{spec}"
    return f"[{', '.join(format(times * end, spec) for end in interval)}]" if interval else ""


def column_heads(table: Sequence[PaperRow]) -> list[str]:
    """Return the heads of the columns."""
    prior = ["Prior"] if any(row.prior for row in table) else []
    control = ["Control"] if any(row.control for row in table) else []
    return ["Task", "Initial", *prior, *control, "SIA-H", "SIA-W+H", "W+H − H", "Verdict", "Seeds"]


def row_cells(row: PaperRow, heads: Sequence[str]) -> list[str]:
    """Return the cells of a row, in the order of `column_heads`; the first includes the detail."""
    seed_count = max((mean.n for mean in (row.h, row.wh, row.control) if mean), default=0)
    fewer = f" ({row.initial.n} of {seed_count} seeds)" if row.initial and row.initial.n < seed_count else ""
    figures = [f"{format_figure(row.initial, row.metric)}{fewer}"]
    figures += [format_figure(row.prior, row.metric)] if "Prior" in heads else []
    figures += [format_figure(row.control, row.metric)] if "Control" in heads else []
    interval = format_interval(row.gain and row.gain.ci95, row.metric, sign=True)
    gain = f"{format_figure(row.gain and row.gain.value, row.metric, sign=True)} {interval}".rstrip()
    figures += [format_figure(row.h, row.metric), format_figure(row.wh, row.metric), gain]
    missing = f" ({row.missing} without a score)" if row.missing else ""
    seeds = "–" if row.published else "/".join(str(mean.n) if mean else "0" for mean in (row.h, row.wh))
    seeds = str(row.control.n) if row.control else seeds
    return [f"{row.label} · {row.detail}", *figures, row.verdict or "–", f"{seeds}{missing}"]


def markdown_table(table: Sequence[PaperRow], captions: Sequence[str]) -> str:
    """Return the table and its captions in Markdown."""
    head = column_heads(table)
    lines = [markdown_row(head), "|---|" + "---:|" * (len(head) - 3) + "---|---:|"]
    for row in table:
        first, *others = row_cells(row, head)
        lines.append(markdown_row([table_cell(first), *map(_escape_markdown, others)]))
    return "\n".join([*lines, "", "\n\n".join(_escape_markdown(caption, 2000) for caption in captions)]) + "\n"


def markdown_row(cells: Iterable[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _escape_markdown(text: str, limit: int = 200) -> str:
    """Escape `text` for Markdown, so that it makes no link, picture, mark-up or second column."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", one_line(text, limit))


def latex_table(table: Sequence[PaperRow], captions: Sequence[str]) -> str:
    r"""Return the table for ``\usepackage{booktabs}``. Everything that TeX would read as a command is escaped."""
    head = column_heads(table)
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(head) - 3)}lr}}", r"\toprule"]
    lines += [" & ".join(map(escape_latex, head)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(escape_latex, row_cells(row, head))) + r" \\" for row in table]
    caption = rf"\caption{{{escape_latex(' '.join(captions), 2000)}}}"
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", caption, r"\end{table}"]) + "\n"


def escape_latex(text: str, limit: int = 200) -> str:
    """Escape `text` for LaTeX."""
    line = one_line(text, limit)
    guard = "{}" if line.startswith(("[", "*")) else ""  # after the end of a row TeX would read these as its arguments
    return guard + line.translate(str.maketrans(_TEX_ESCAPES))


def table_captions(sections: Sequence[ReportSection], runs: Sequence[ReportedRun]) -> list[str]:
    """Return the sentences below the table of a paper."""
    sentences = [
        "Scores on test, scored once at the end of each run: means over seeds ± standard deviation between them.",
        "W+H − H: mean over the seeds that both have, with Student's 95% interval.",
        *map(_group_sentence, sections),
        *(sentence for section in sections for sentence in section.survival),
        "Better: the 95% intervals over seeds (Student) and over questions both leave zero out; otherwise a tie.",
    ]
    if directed := [run.name for run in runs if run.directions]:
        sentences.append(f"No fair arms, since a person directed them: {', '.join(directed)}.")
    sentences += [
        f"Transfer of {run.name}, outside of all arms: {each.sentence}." for run in runs for each in run.transfers
    ]
    incomplete = Counter(run.status for run in runs if run.status != "completed")
    if incomplete:
        counts = ", ".join(f"{count} {name}" for name, count in incomplete.items())
        sentences.append(f"Of {len(runs)} runs {incomplete.total()} did not complete ({counts}).")
    return sentences


def _group_sentence(section: ReportSection) -> str:
    group = section.group
    if group.sample_run.selected_on_test:
        return f"{group.label}: selected on test, since the task cannot be split."
    n = next((run.final.n for run in group.runs if run.final), None)
    looked = f"{n} test questions, looked at {section.looks} times in {len(group.runs)} runs."
    leaderboards = [] if n is None else leaderboard_captions(group)
    first = f"{group.label}: {'no run has a test score.' if n is None else looked}"
    return " ".join([first, *leaderboards, *published_captions(group)])


def leaderboard_captions(group: ComparableGroup) -> list[str]:
    """Return what official graders and leaderboards say of the best candidates of a group."""
    return [f"{run.name}: {'; '.join(run.leaderboard)}." for run in group.runs if run.leaderboard]


def published_captions(group: ComparableGroup) -> list[str]:
    """Return a sentence on the published figures that the task declares, in a list that may be empty."""
    if not (declared := group.published):
        return []
    source, protocol = declared.get("source", "no source given"), declared.get("protocol", "not known")
    return [f"Published: {source}; protocol differs: {protocol}."]


def runs_csv(of: Sequence[ReportedRun]) -> str:
    """Return a row for each run, whatever became of it."""
    return _to_csv(
        {
            **_run_columns(run),
            "status": run.status,
            "why": run.why,
            "metric": run.metric,
            "generations": len(run.generations),
            "best": run.best,
            **score_columns("val", next((g.val for g in run.generations if g.n == run.best), None)),
            **score_columns("initial_test", run.initial),
            **score_columns("test", run.final),
            "looks_at_test": run.looks,
            "directed": len(run.directions),
            "test_sha256": run.arm.test_sha256 if run.arm else None,
            **_usage_columns(run.usage),
            "seconds": run.seconds,
            "not_compared": run.not_compared,
            "faults": "; ".join(run.faults),
            **run.own,
        }
        for run in of
    )


def generations_csv(of: Sequence[ReportedRun]) -> str:
    """Return a row for each generation."""
    return _to_csv(
        {
            **_run_columns(run),
            "generation": g.n,
            **{
                key: getattr(g, key)
                for key in ("lever", "algorithm", "status", "parent", "partner", "model", "title", "reason")
            },
            **score_columns("val", g.val),
            "outcomes": " ".join(f"{kind}={count}" for kind, count in g.outcomes.items()),
            "seconds": round(sum(g.seconds.values()), 3),
            **_usage_columns(g.usage),
        }
        for run in of
        for g in run.generations
    )


def pairs_csv(of: Sequence[ReportSection]) -> str:
    """Return a row for each pair: arms of the same seed, and each run's best candidate with its first harness."""
    rows: list[Json] = []
    for section in of:
        for pair in (pair for contrast in section.contrasts for pair in contrast.pairs):
            keys = ("difference", "standard_error", "lost", "won", "p_value", "p_holm", "verdict")
            named = {"kind": "arms", "task": section.group.task, "seed": pair.seed}
            named |= {"old": pair.old.name, "new": pair.new.name}
            rows.append(named | {key: getattr(pair, key) for key in keys})
    for gain in (gain for section in of for gain in section.gains):
        run, keys = gain.run, ("difference", "lost", "won", "p_value", "verdict")
        named = {"kind": "first harness to best", "task": run.task, "seed": run.seed}
        named |= {"old": f"{run.name} gen_{run.first}", "new": f"{run.name} gen_{run.best}"}
        rows.append(named | {key: getattr(gain, key) for key in keys} | {"standard_error": None, "p_holm": None})
    return _to_csv(rows)


def _run_columns(run: ReportedRun) -> Json:
    return {"run": run.name, "task": run.task, "mode": run.mode, "trainer": run.trainer, "seed": run.seed}


def _usage_columns(usage: Mapping[str, Any] | None) -> Json:
    return {key: (usage or {}).get(key) for key in ("usd", "tokens", "calls")}


def _to_csv(rows: Iterable[Json]) -> str:
    table = list(rows)
    text = io.StringIO()
    if table:
        lines = csv.DictWriter(text, table[0].keys(), lineterminator="\n")
        lines.writeheader()
        lines.writerows({key: _safe_cell(value) for key, value in row.items()} for row in table)
    return text.getvalue()


def _safe_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    line = one_line(value, 1000)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line
