"""The terminal output of a run: live on a terminal, one plain line per event elsewhere (a log file, SLURM)."""

import os
import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sia_runner.config.experiment import SpendingLimits
from sia_runner.experiment.summary import format_score, published_lines, update_line
from sia_runner.selection.scoring import leaderboard_lines
from sia_runner.store.directions import directed_words
from sia_runner.store.files import LineReader
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.journal import find_incumbent

if TYPE_CHECKING:
    from rich.progress import Progress

_STEP_PATTERN = re.compile(r"^step (\d+)/(\d+)\b")
_SECONDS_PATTERN = re.compile(r"· ([\d.]+) s\b")
_WIDE = 120  # characters from which the table of generations is complete
_FIXED = 58  # characters of its other columns where it is narrow
_STYLE = {"accepted": "green", "rejected": "yellow", "failed": "red", "unscored": "magenta"}


@contextmanager
def follow_log(log: Path, show: Callable[[str], None], every: float) -> Generator[None]:
    """Pass the newest line added to a log to `show`, at most once in `every` seconds, and the last one at the end."""
    reader, stop = LineReader(log.parent, log.name), threading.Event()
    list(reader.fresh())  # those of an earlier process

    def show_newest() -> None:
        if lines := list(reader.fresh()):
            newest = lines[-1].data.decode(errors="replace")
            show(newest + remaining_text(newest))

    def follow() -> None:
        while not stop.wait(every):
            show_newest()
        show_newest()

    thread = threading.Thread(target=follow, name="following", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def remaining_text(line: str) -> str:
    """Estimate the remaining time from a line like ``step 3/16 · … · 4.5 s``; empty for any other line."""
    step, seconds = _STEP_PATTERN.search(line), _SECONDS_PATTERN.search(line)
    remaining = 0.0
    if step and seconds and int(step[1]):
        remaining = float(seconds[1]) / int(step[1]) * (int(step[2]) - int(step[1]))
    if remaining >= 120:
        return f" · about {remaining / 60:.0f} min left"
    return f" · about {remaining:.0f} s left" if remaining else ""


def wide_console(width: int, *, soft_wrap: bool = False) -> Console:
    """Return a console on standard output: as wide as the terminal, or COLUMNS; in a log file `width` characters."""
    console = Console(highlight=False, soft_wrap=soft_wrap)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdecimal():
        console.width = width
    return console


class Display:
    """The terminal output of one run; use it as a context manager."""

    def __init__(self, max_gen: int, console: Console | None = None) -> None:
        self._console = console or wide_console(160, soft_wrap=True)
        self._progress = _new_progress(self._console) if self._console.is_terminal else None
        self._stage, self._cost = "starting", ""
        self._bar = self._progress and self._progress.add_task(self._stage, total=max_gen, unit="generations")

    def __enter__(self) -> "Display":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def _update_bar(self, **fields: Any) -> None:
        if self._progress and self._bar is not None:
            self._progress.update(self._bar, **fields)

    def say(self, text: str) -> None:
        """Print one line of plain text."""
        self._console.print(escape(text))

    def show_stage(self, name: str, where: str) -> None:
        """Show `name` as the current stage; `where` says in which generation."""
        self._stage = f"{where} · {name}"
        self._update_bar(description=self._stage)

    @contextmanager
    def following(self, log: Path) -> Generator[None]:
        """Show what the current stage writes to `log`: with a live progress bar, or as a plain line every 10 s."""
        progress = self._progress
        if progress is None:
            with follow_log(log, lambda line: self._console.print(f"{self._stage} · {escape(line)}"), every=10.0):
                yield
            return
        bar = progress.add_task("", unit="steps", visible=False)

        def show(line: str) -> None:
            step = _STEP_PATTERN.search(line)
            done, total = (int(step[1]), int(step[2])) if step else (None, None)
            progress.update(bar, description=escape(line), completed=done, total=total, visible=True)

        try:
            with follow_log(log, show, every=0.5):
                yield
        finally:
            progress.remove_task(bar)

    def show_cost(self, cost: str) -> None:
        """Show what the run cost so far beside the number of generations, or as a line where it changed."""
        self._update_bar(unit=f"generations · {escape(cost)}" if cost else "generations")
        if cost != self._cost and not self._progress:
            self._console.print(f"  so far: {escape(cost)}")
        self._cost = cost

    def show_generation(self, generation: GenerationRecord, before: Sequence[GenerationRecord]) -> None:
        """Print one lasting line for a generation, as soon as it has its verdict."""
        self._update_bar(completed=generation.n)
        score, incumbent = "no score", find_incumbent(before)
        if generation.val:
            old = next((g.val for g in before if g.n == incumbent), None)
            change = f" ({generation.val.value - old.value:+.3f})" if old else ""
            score = f"{generation.val.value:.3f}{change}"
        status, seconds = _styled(generation.status), sum(generation.seconds.values())
        text = f"{escape(generation.title)} · {escape(generation.reason)} · {seconds:.1f} s"
        self._console.print(f"generation {generation.n}: {status} val {score} · {text}")
        if generation.training:
            self._console.print(f"  update: {escape(update_line(generation.training))}")

    def show_summary(self, summary: Mapping[str, Any], run: Path) -> None:
        """Print the table of generations and the closing lines."""
        if self._progress:
            self._progress.stop()
        self._console.print()
        if summary["generations"]:
            self._console.print(_generation_table(summary, self._console.width))
        for line in closing_lines(summary, run):
            self._console.print(escape(line))


def _new_progress(console: Console) -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def _styled(status: str) -> str:
    return f"[{_STYLE[status]}]{status}[/]"


def _generation_table(summary: Mapping[str, Any], width: int) -> Table:
    compact = width < _WIDE
    title = f"{summary['task']} · {summary['mode']} · {summary['metric']['name']} on val"
    caption = "± one standard error of the paired difference; search.accept says which gain is enough"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.box, table.padding = (box.SIMPLE_HEAD, (0, 1, 0, 0)) if compact else (table.box, table.padding)
    for name in ("gen", "lever", "status", "val [95% ci]", "change", *(() if compact else ("seconds",))):
        table.add_column(name, justify="right" if name in ("gen", "change", "seconds") else "left", no_wrap=True)
    table.add_column("why", overflow="fold", no_wrap=compact)
    best: float | None = None
    for g in summary["generations"]:
        value = g["val"]["value"] if g["val"] else None
        change = "" if value is None or best is None else f"{value - best:+.3f}"
        why = f"{g['title']}: {g['reason']}" if g["title"] else g["reason"]
        seconds = [] if compact else [f"{sum(g['seconds'].values()):.1f}"]
        val = format_score(g["val"]) if g["val"] else "–"
        if compact:
            val, space = val.partition(" (n=")[0], max(12, width - _FIXED)
            why = why if len(why) <= space else f"{why[: space - 1]}…"
        table.add_row(str(g["n"]), g["lever"], _styled(g["status"]), escape(val), change, *seconds, escape(why))
        if g["status"] == "accepted":
            best = value
    return table


def sandbox_lines(name: str, gaps: Sequence[str]) -> list[str]:
    """Return the opening lines on the sandbox: one where only the kernel is shared, else a line for each gap."""
    if all("hole in the kernel itself" in gap for gap in gaps):
        return [f"sandbox: {name}, as tight as it can be on a shared kernel"]
    return [
        f"sandbox: {name}, which leaves open on this machine (what to do: docs/sandbox.md):",
        *(f"  {gap}" for gap in gaps),
    ]


def closing_lines(summary: Mapping[str, Any], run: Path) -> list[str]:
    """Return the lines on test (initial against best) and on what to do next."""
    usage, interrupted = summary["usage"], summary["status"] == "interrupted"
    lines = [f"stopped: {summary['stopped']}"] if summary["stopped"] else []
    if words := directed_words(summary.get("directions", ())):
        lines.append(f"no fair arm: {words}")
    if reason := summary.get("untrained"):
        lines.append(f"the weights were never trained: {reason}")
    if not interrupted:
        lines += _test_lines(summary) + published_lines(summary.get("published"))
    if usage["calls"]:
        unanswered = f", {usage['unanswered']:,} of them without an answer" if usage["unanswered"] else ""
        lines.append(f"models: {usage['calls']:,} calls{unanswered}, {usage['tokens']:,} tokens, {_dollars(usage)}")
    lines.append(f"run directory: {run}   (status: {summary['status']})")
    if interrupted and summary["waits"]:
        command = f"python -m sia_runner approve {run}"
        lines += [
            f"generation {summary['waits']} waits for approval: {run}/gen_{summary['waits']}/plan.md",
            f"to approve:    {command}",
            f'to reject:     {command} --reject "why"',
        ]
    elif interrupted:
        lines.append(resume_line(run))
    return lines


def _test_lines(summary: Mapping[str, Any]) -> list[str]:
    best = summary["best"]
    if best is None:
        return ["no candidate could be scored: see stdout.log and gate/stdout.log of the generations"]
    if summary["selected_on_test"]:
        return [f"best: generation {best['generation']}, {format_score(best['val'])} (selected_on_test: not split)"]
    if best["test"] is None:
        return ["the test run gave no score: see test/ in the run directory"]
    first = best["baseline_test"]
    lines = [f"test, first harness:       {format_score(first)}"] if first else []
    lines.append(f"test, best (generation {best['generation']}): {format_score(best['test'])}")
    return lines + [f"  {line}" for line in leaderboard_lines(best.get("standing"))]


def resume_line(run: Path) -> str:
    """Return the line that says how to resume the run."""
    return f"to continue:   python -m sia_runner resume={run}"


def _dollars(usage: Mapping[str, Any]) -> str:
    return "price not known" if usage["usd"] is None else f"${usage['usd']:.2f}"


def cost_so_far(usage: Mapping[str, Any], minutes: float, budget: SpendingLimits) -> str:
    """Format what was spent or has a limit: ``$0.12 of $5.00, 1,204 of 10,000 calls, 3.1 of 60 minutes``."""
    parts: list[str] = []
    if budget.usd is not None or usage["calls"]:
        parts.append(_dollars(usage) + (f" of ${budget.usd:,.2f}" if budget.usd is not None else ""))
    for unit in ("tokens", "calls"):
        limit = getattr(budget, unit)
        if limit is not None or usage[unit]:
            parts.append(f"{usage[unit]:,}" + (f" of {limit:,}" if limit is not None else "") + f" {unit}")
    if budget.minutes is not None:
        parts.append(f"{minutes:.1f} of {budget.minutes:g} minutes")
    return ", ".join(parts)
