"""The terminal output of a run: a progress line per stage, a line per generation, a table at the end.

On a terminal the current stage is a live line; elsewhere (a log file, SLURM) every event is one plain line.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from sia_runner.config.experiment import SpendingLimits
from sia_runner.experiment.summary import format_score, published_lines, update_line
from sia_runner.selection.scoring import leaderboard_lines
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.journal import find_incumbent

_STEP_PATTERN = re.compile(r"^step (\d+)/(\d+)\b")
_SECONDS_PATTERN = re.compile(r"· ([\d.]+) s\b")
_MINUTE = 60


class LogFollower:
    """A thread that passes new lines of a log file to a function.

    ``with Following(log, show, every):`` calls `show` with the newest line, at most once in `every` seconds, and with
    the last one at the end. Lines that were in the log before are not shown.
    """

    def __init__(self, log: Path, show: Callable[[str], None], every: float) -> None:
        self._log, self._show, self._every = log, show, every
        self._read = log.stat().st_size if log.is_file() else 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="following", daemon=True)

    def __enter__(self) -> "LogFollower":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stop.wait(self._every):
            self._show_newest()
        self._show_newest()

    def _show_newest(self) -> None:
        if not self._log.is_file():
            return
        with self._log.open("rb") as stream:
            stream.seek(self._read)
            lines = stream.read().rpartition(b"\n")[0]
        if lines:
            self._read += len(lines) + 1
            newest = lines.splitlines()[-1].decode(errors="replace")
            self._show(newest + remaining_text(newest))


def parse_step(line: str) -> tuple[int, int] | None:
    """Parse (done, total) from a line like ``step 3/16 · …``; None for any other line."""
    match = _STEP_PATTERN.search(line)
    return (int(match[1]), int(match[2])) if match else None


def remaining_text(line: str) -> str:
    """Estimate the remaining time from a line like ``step 3/16 · … · 4.5 s``; empty for any other line."""
    step, seconds = _STEP_PATTERN.search(line), _SECONDS_PATTERN.search(line)
    if not step or not seconds or int(step[1]) == 0:
        return ""
    remaining_seconds = float(seconds[1]) / int(step[1]) * (int(step[2]) - int(step[1]))
    if remaining_seconds == 0:
        return ""
    if remaining_seconds < 2 * _MINUTE:
        return f" · about {remaining_seconds:.0f} s left"
    return f" · about {remaining_seconds / _MINUTE:.0f} min left"


_STYLE = {"accepted": "green", "rejected": "yellow", "failed": "red", "unscored": "magenta"}


class Display:
    """The terminal output of one run; use it as a context manager."""

    def __init__(self, max_gen: int, console: Console | None = None) -> None:
        self._console = console or _console()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._stage = "starting"
        self._cost = ""
        self._bar = self._progress.add_task(self._stage, total=max_gen, unit="generations")

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print one line of plain text."""
        self._console.print(escape(text))

    @contextmanager
    def stage(self, name: str, where: str) -> Iterator[None]:
        """Show `name` as the current stage; `where` says in which generation."""
        self._stage = f"{where} · {name}"
        self._progress.update(self._bar, description=self._stage)
        yield

    @contextmanager
    def following(self, log: Path) -> Iterator[None]:
        """Show what the current stage writes to `log`: with a live progress bar, or as a plain line every 10 s."""
        live = self._console.is_terminal
        bar = self._progress.add_task("", unit="steps", visible=False)

        def show(line: str) -> None:
            if not live:
                self._console.print(f"{self._stage} · {escape(line)}")
                return
            done, total = parse_step(line) or (None, None)
            self._progress.update(bar, description=escape(line), completed=done, total=total, visible=True)

        try:
            with LogFollower(log, show, every=0.5 if live else 10.0):
                yield
        finally:
            self._progress.remove_task(bar)

    def show_cost(self, cost: str) -> None:
        """Show what the run cost so far beside the number of generations, or as a line where it changed."""
        self._progress.update(self._bar, unit=f"generations · {escape(cost)}" if cost else "generations")
        if cost != self._cost and not self._console.is_terminal:
            self._console.print(f"  so far: {escape(cost)}")
        self._cost = cost

    def show_generation(self, generation: GenerationRecord, before: Sequence[GenerationRecord]) -> None:
        """Print one lasting line for a generation, as soon as it has its verdict."""
        self._progress.update(self._bar, completed=generation.n)
        score = f"{generation.val.value:.3f}" if generation.val else "no score"
        title = escape(generation.title)
        change = _val_change(generation, before)
        status = f"[{_STYLE[generation.status]}]{generation.status}[/]"
        reason = escape(generation.reason)
        seconds = sum(generation.seconds.values())
        self._console.print(
            f"generation {generation.n}: {status} val {score}{change} · {title} · {reason} · {seconds:.1f} s"
        )
        if generation.training:
            self._console.print(f"  update: {escape(update_line(generation.training))}")

    def show_summary(self, summary: Mapping[str, Any], run: Path) -> None:
        """Print the table of generations and the closing lines."""
        self._progress.stop()
        self._console.print()
        if summary["generations"]:
            self._console.print(generation_table(summary))
        for line in closing_lines(summary, run):
            self._console.print(escape(line))


def _console() -> Console:
    """Return a console that is wide enough for the table: a log file has no width of its own."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=160)


def generation_table(summary: Mapping[str, Any]) -> Table:
    """Return the table of generations: lever, status, val ± ci, change, seconds, why."""
    columns = Table(
        title=f"{summary['task']} · {summary['mode']} · {summary['metric']['name']} on val", title_justify="left"
    )
    for name, justify in [("gen", "right"), ("lever", "left"), ("status", "left"), ("val [95% ci]", "left")]:
        columns.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in ("change", "seconds"):
        columns.add_column(name, justify="right")
    columns.add_column("why", overflow="fold")
    best: float | None = None
    for g in summary["generations"]:
        value = g["val"]["value"] if g["val"] else None
        change = "" if value is None or best is None else f"{value - best:+.3f}"
        why = f"{g['title']}: {g['reason']}" if g["title"] else g["reason"]
        status = f"[{_STYLE[g['status']]}]{g['status']}[/]"
        seconds = f"{sum(g['seconds'].values()):.1f}"
        val = format_score(g["val"]) if g["val"] else "–"
        columns.add_row(str(g["n"]), g["lever"], status, escape(val), change, seconds, escape(why))
        if g["status"] == "accepted":
            best = value
    return columns


def closing_lines(summary: Mapping[str, Any], run: Path) -> list[str]:
    """Return the lines on test (initial against best) and on what to do next."""
    lines = [f"stopped: {summary['stopped']}"] if summary["stopped"] else []
    if summary["status"] != "interrupted":
        lines += _test_lines(summary) + published_lines(summary.get("published"))
    lines += spending_lines(summary["usage"])
    lines.append(f"run directory: {run}   (status: {summary['status']})")
    if summary["status"] == "interrupted":
        lines += approval_lines(summary["waits"], run) if summary["waits"] else [resume_line(run)]
    return lines


def approval_lines(n: int, run: Path) -> list[str]:
    """Return the lines that say how to answer the plan of generation `n`."""
    command = f"python -m sia_runner approve {run}"
    return [
        f"generation {n} waits for approval: {run}/gen_{n}/plan.md",
        f"to approve:    {command}",
        f'to reject:     {command} --reject "why"',
    ]


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


def spending_lines(usage: Mapping[str, Any]) -> list[str]:
    """Return one line on what was spent on models; no line where no model was called."""
    if not usage["calls"]:
        return []
    dollars = "price not known" if usage["usd"] is None else f"${usage['usd']:.2f}"
    unanswered = f", {usage['unanswered']:,} of them without an answer" if usage["unanswered"] else ""
    return [f"models: {usage['calls']:,} calls{unanswered}, {usage['tokens']:,} tokens, {dollars}"]


def resume_line(run: Path) -> str:
    """Return the line that says how to resume the run."""
    return f"to continue:   python -m sia_runner resume={run}"


def _val_change(generation: GenerationRecord, before: Sequence[GenerationRecord]) -> str:
    n = find_incumbent(before)
    old = next((g.val for g in before if g.n == n), None)
    return "" if generation.val is None or old is None else f" ({generation.val.value - old.value:+.3f})"


def cost_so_far(usage: Mapping[str, Any], minutes: float, budget: SpendingLimits) -> str:
    """Format the amounts that were spent or have a limit: ``$0.12 of $5.00, 1,204 of 10,000 calls, 3.1 of 60 minutes``.

    The text is empty where no model was called and nothing is limited.
    """
    parts: list[str] = []
    if budget.usd is not None or usage["calls"]:
        dollars = "price not known" if usage["usd"] is None else f"${usage['usd']:.2f}"
        parts.append(dollars + (f" of ${budget.usd:,.2f}" if budget.usd is not None else ""))
    for unit in ("tokens", "calls"):
        limit = getattr(budget, unit)
        if limit is not None or usage[unit]:
            parts.append(f"{usage[unit]:,}" + (f" of {limit:,}" if limit is not None else "") + f" {unit}")
    if budget.minutes is not None:
        parts.append(f"{minutes:.1f} of {budget.minutes:g} minutes")
    return ", ".join(parts)
