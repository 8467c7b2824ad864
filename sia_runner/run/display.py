"""What a person sees while a run is under way: a progress line per stage, a line per generation, a table at the end.

On a terminal the stage under way is a live line; elsewhere (a log file, SLURM) every event is one plain line.
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
        self._spent = ""
        self._bar = self._progress.add_task(self._stage, total=max_gen, unit="generations")

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._console.print(escape(text))

    @contextmanager
    def stage(self, name: str, where: str) -> Iterator[None]:
        self._stage = f"{where} · {name}"
        self._progress.update(self._bar, description=self._stage)
        yield

    @contextmanager
    def following(self, log: Path) -> Iterator[None]:
        """While a stage is under way, what it writes to `log`: on a live line with a bar of its own, or now and then
        as a line."""
        live = self._console.is_terminal
        bar = self._progress.add_task("", unit="steps", visible=False)

        def show(line: str) -> None:
            if not live:
                self._console.print(f"{self._stage} · {escape(line)}")
                return
            done, asked = steps(line) or (None, None)
            self._progress.update(bar, description=escape(line), completed=done, total=asked, visible=True)

        try:
            with Following(log, show, every=0.5 if live else 10.0):
                yield
        finally:
            self._progress.remove_task(bar)

    def spent(self, cost: str) -> None:
        """What the run cost so far: with the number of generations, or as a line where it changed."""
        self._progress.update(self._bar, unit=f"generations · {escape(cost)}" if cost else "generations")
        if cost != self._spent and not self._console.is_terminal:
            self._console.print(f"  so far: {escape(cost)}")
        self._spent = cost

    def generation(self, now: Finished, before: Sequence[Finished]) -> None:
        """One lasting line per generation, as soon as it is judged."""
        self._progress.update(self._bar, completed=now.n)
        score = f"{now.val.value:.3f}" if now.val else "no score"
        title = escape(now.steps["propose"]["title"])
        change = _change(now, before)
        status = f"[{_STYLE[now.status]}]{now.status}[/]"
        reason = escape(now.steps["accept"]["reason"])
        seconds = sum(now.seconds.values())
        self._console.print(f"generation {now.n}: {status} val {score}{change} · {title} · {reason} · {seconds:.1f} s")
        if update := training(now):
            self._console.print(f"  update: {escape(update_line(update))}")

    def end(self, summary: Mapping[str, Any], run: Path) -> None:
        self._progress.stop()
        self._console.print()
        if summary["generations"]:
            self._console.print(table(summary))
        for line in closing_lines(summary, run):
            self._console.print(escape(line))


def _console() -> Console:
    """A log file has no width; wide enough for a table that nobody has to unfold."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=160)


def table(summary: Mapping[str, Any]) -> Table:
    """generation, lever, status, val ± ci, change, seconds, why"""
    shown = Table(
        title=f"{summary['task']} · {summary['mode']} · {summary['metric']['name']} on val", title_justify="left"
    )
    for name, justify in [("gen", "right"), ("lever", "left"), ("status", "left"), ("val [95% ci]", "left")]:
        shown.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name in ("change", "seconds"):
        shown.add_column(name, justify="right")
    shown.add_column("why", overflow="fold")
    best: float | None = None
    for g in summary["generations"]:
        value = g["val"]["value"] if g["val"] else None
        change = "" if value is None or best is None else f"{value - best:+.3f}"
        why = f"{g['title']}: {g['reason']}" if g["title"] else g["reason"]
        status = f"[{_STYLE[g['status']]}]{g['status']}[/]"
        seconds = f"{sum(g['seconds'].values()):.1f}"
        val = interval(g["val"]) if g["val"] else "–"
        shown.add_row(str(g["n"]), g["lever"], status, escape(val), change, seconds, escape(why))
        if g["status"] == "accepted":
            best = value
    return shown


def closing_lines(summary: Mapping[str, Any], run: Path) -> list[str]:
    """Initial against best on test, and what to do next."""
    lines = [f"stopped: {summary['stopped']}"] if summary["stopped"] else []
    if summary["status"] != "interrupted":
        lines += _verdict(summary) + published_lines(summary.get("published"))
    lines += spending(summary["usage"])
    lines.append(f"run directory: {run}   (status: {summary['status']})")
    if summary["status"] == "interrupted":
        lines += approval_lines(summary["waits"], run) if summary["waits"] else [resume_line(run)]
    return lines


def approval_lines(n: int, run: Path) -> list[str]:
    command = f"python -m sia_runner.approve {run}"
    return [
        f"generation {n} waits for approval: {run}/gen_{n}/plan.md",
        f"to approve:    {command}",
        f'to reject:     {command} --reject "why"',
    ]


def _verdict(summary: Mapping[str, Any]) -> list[str]:
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
    """What was spent on models, in one line; none where no model was called."""
    if not usage["calls"]:
        return []
    dollars = "price not known" if usage["usd"] is None else f"${usage['usd']:.2f}"
    unanswered = f", {usage['unanswered']:,} of them without an answer" if usage["unanswered"] else ""
    return [f"models: {usage['calls']:,} calls{unanswered}, {usage['tokens']:,} tokens, {dollars}"]


def resume_line(run: Path) -> str:
    return f"to continue:   python -m sia_runner resume={run}"


def _change(now: Finished, before: Sequence[Finished]) -> str:
    n = incumbent(before)
    old = next((g.val for g in before if g.n == n), None)
    return "" if now.val is None or old is None else f" ({now.val.value - old.value:+.3f})"
