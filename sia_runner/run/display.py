"""The terminal output of a run: a progress line per stage, a line per generation, a table at the end.

On a terminal the current stage is a live line; elsewhere (a log file, SLURM) every event is one plain line.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from sia_runner.ground.history import Finished, incumbent
from sia_runner.ground.standing import standing_lines
from sia_runner.run.following import Following, steps
from sia_runner.run.published import published_lines
from sia_runner.run.summary import interval, training, update_line

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
            done, total = steps(line) or (None, None)
            self._progress.update(bar, description=escape(line), completed=done, total=total, visible=True)

        try:
            with Following(log, show, every=0.5 if live else 10.0):
                yield
        finally:
            self._progress.remove_task(bar)

    def show_cost(self, cost: str) -> None:
        """Show what the run cost so far beside the number of generations, or as a line where it changed."""
        self._progress.update(self._bar, unit=f"generations · {escape(cost)}" if cost else "generations")
        if cost != self._cost and not self._console.is_terminal:
            self._console.print(f"  so far: {escape(cost)}")
        self._cost = cost

    def show_generation(self, generation: Finished, before: Sequence[Finished]) -> None:
        """Print one lasting line for a generation, as soon as it has its verdict."""
        self._progress.update(self._bar, completed=generation.n)
        score = f"{generation.val.value:.3f}" if generation.val else "no score"
        title = escape(generation.steps["propose"]["title"])
        change = _change(generation, before)
        status = f"[{_STYLE[generation.status]}]{generation.status}[/]"
        reason = escape(generation.steps["accept"]["reason"])
        seconds = sum(generation.seconds.values())
        self._console.print(
            f"generation {generation.n}: {status} val {score}{change} · {title} · {reason} · {seconds:.1f} s"
        )
        if update := training(generation):
            self._console.print(f"  update: {escape(update_line(update))}")

    def show_summary(self, summary: Mapping[str, Any], run: Path) -> None:
        """Print the table of generations and the closing lines."""
        self._progress.stop()
        self._console.print()
        if summary["generations"]:
            self._console.print(table(summary))
        for line in closing_lines(summary, run):
            self._console.print(escape(line))


def _console() -> Console:
    """Return a console that is wide enough for the table: a log file has no width of its own."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=160)


def table(summary: Mapping[str, Any]) -> Table:
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
        val = interval(g["val"]) if g["val"] else "–"
        columns.add_row(str(g["n"]), g["lever"], status, escape(val), change, seconds, escape(why))
        if g["status"] == "accepted":
            best = value
    return columns


def closing_lines(summary: Mapping[str, Any], run: Path) -> list[str]:
    """Return the lines on test (initial against best) and on what to do next."""
    lines = [f"stopped: {summary['stopped']}"] if summary["stopped"] else []
    if summary["status"] != "interrupted":
        lines += _test_lines(summary) + published_lines(summary.get("published"))
    lines += spending(summary["usage"])
    lines.append(f"run directory: {run}   (status: {summary['status']})")
    if summary["status"] == "interrupted":
        lines += approval_lines(summary["waits"], run) if summary["waits"] else [resume_line(run)]
    return lines


def approval_lines(n: int, run: Path) -> list[str]:
    """Return the lines that say how to answer the plan of generation `n`."""
    command = f"python -m sia_runner.approve {run}"
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
        return [f"best: generation {best['generation']}, {interval(best['val'])} (selected_on_test: not split)"]
    if best["test"] is None:
        return ["the test run gave no score: see test/ in the run directory"]
    first = best["baseline_test"]
    lines = [f"test, first harness:       {interval(first)}"] if first else []
    lines.append(f"test, best (generation {best['generation']}): {interval(best['test'])}")
    return lines + [f"  {line}" for line in standing_lines(best.get("standing"))]


def spending(usage: Mapping[str, Any]) -> list[str]:
    """Return one line on what was spent on models; no line where no model was called."""
    if not usage["calls"]:
        return []
    dollars = "price not known" if usage["usd"] is None else f"${usage['usd']:.2f}"
    unanswered = f", {usage['unanswered']:,} of them without an answer" if usage["unanswered"] else ""
    return [f"models: {usage['calls']:,} calls{unanswered}, {usage['tokens']:,} tokens, {dollars}"]


def resume_line(run: Path) -> str:
    """Return the line that says how to resume the run."""
    return f"to continue:   python -m sia_runner resume={run}"


def _change(generation: Finished, before: Sequence[Finished]) -> str:
    n = incumbent(before)
    old = next((g.val for g in before if g.n == n), None)
    return "" if generation.val is None or old is None else f" ({generation.val.value - old.value:+.3f})"
