"""One run directory, kept up to date: its state, its spending and its training curves.

A refresh reads what changed, and reads nothing twice.
"""

import math
import re
import shlex
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.gateway.ledger_files import REGISTER, LedgerFile, RunTotals, add_up
from sia_runner.records import Json, Score
from sia_runner.results.index import lease_holder, read_config, run_status
from sia_runner.results.questions import QuestionIndex
from sia_runner.selection.scoring import leaderboard_lines
from sia_runner.store.files import (
    FileStamp,
    LineReader,
    as_dict,
    as_int,
    as_number,
    file_stamp,
    finite_figures,
    list_folder,
    load_json,
    parse_object,
)
from sia_runner.store.generations import GenerationRecord, TrainingRecord, parse_counts
from sia_runner.store.journal import JournalReader, find_incumbent, minutes_spent, read_generations

BUDGET_UNITS = ("usd", "tokens", "calls", "minutes")
_LEDGER_SLICE = 1 << 20  # bytes read between two checks of the deadline


class SpendingReader:
    """The sums of RUN/ledger as it grows.

    Calls that were sent and not answered are counted as under way. Once the run's process is gone they count at what
    was reserved for them, as the run itself counts them.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._files: dict[str, tuple[LineReader, LedgerFile]] = {}

    def refresh(self, seconds: float = 0.1) -> bool:
        """Read on for about `seconds`. Return True once everything on disk has been added up."""
        deadline = time.monotonic() + seconds
        for entry in list_folder(self._run, "ledger"):
            if entry.kind == "file" and entry.name.endswith(".jsonl") and entry.name != REGISTER:
                name = f"ledger/{entry.name}"
                self._files.setdefault(name, (LineReader(self._run, name), LedgerFile(keeps_pools=False)))
        for name in self._files:
            while self._slice(name):
                if time.monotonic() > deadline:
                    return False
        return True

    def _slice(self, name: str) -> bool:
        """Read a part of what is new in one file. Return True if there was anything."""
        lines, ledger_file = self._files[name]
        before = lines.offset
        for line in lines.fresh(_LEDGER_SLICE):
            if lines.restarted:
                ledger_file = LedgerFile(keeps_pools=False)
                self._files[name] = (lines, ledger_file)
                lines.restarted = False
            try:
                ledger_file.add(parse_object(line.data) or {})
            except (KeyError, TypeError, ValueError, AttributeError):
                continue  # the file is damaged: count the other lines
        return lines.offset != before

    def totals(self, *, alive: bool) -> RunTotals:
        """Return the sums."""
        return add_up([ledger_file for _, ledger_file in self._files.values()], alive=alive)


def budget_limits(config: Mapping[str, Any], resumed: list[str]) -> dict[str, float | None]:
    """Return ``{"usd": 5.0, …}``, None for no limit: the config's, with the overrides of resumes (``budget.usd=9``)."""
    budget = as_dict(config.get("budget"))
    result = {unit: _parse_limit(str(budget.get(unit))) for unit in BUDGET_UNITS}
    for override in resumed:
        key, _, value = override.partition("=")
        unit = key.removeprefix("budget.")
        if unit != key and unit in BUDGET_UNITS:
            result[unit] = _parse_limit(value)
    return result


def _parse_limit(text: str) -> float | None:
    try:
        return as_number(float(text))
    except ValueError:
        return None


MAX_POINTS = 2_000  # of each curve at most
CURVE_NAMES = ("reward", "kl", "entropy", "length")
_LOG_LINE = re.compile(r"^step (\d+)/(\d+) · reward (\S+) · kl (\S+) · entropy (\S+) · (\d+) tokens · (\S+) s")


class TrainingCurves:
    """The curves of one generation that is still training. `steps`: steps done, and steps planned if known."""

    def __init__(self, run: Path, n: int) -> None:
        self._lines = {name: LineReader(run, f"gen_{n}/{name}") for name in ("curve.jsonl", "training.log")}
        self._points: dict[str, dict[int, dict[str, float]]] = {name: {} for name in self._lines}
        self.steps: tuple[int, int | None] = (0, None)

    def refresh(self) -> dict[str, list[tuple[int, float]]]:
        """Return curve name -> (step, value), in order. A step repeated after a kill is in it once."""
        for name, lines in self._lines.items():
            for at, line in enumerate(lines.fresh()):
                if lines.restarted and at == 0:
                    self._points[name].clear()
                self._add_point(name, line.data)
        points_by_step = self._points["curve.jsonl"] or self._points["training.log"]
        curves = {
            name: [(step, figures[name]) for step, figures in sorted(points_by_step.items()) if name in figures]
            for name in CURVE_NAMES
        }
        return {name: points for name, points in curves.items() if points}

    def _add_point(self, name: str, data: bytes) -> None:
        read = _parse_point if name == "curve.jsonl" else _parse_log_line
        if (point := read(data)) is None or len(self._points[name]) >= MAX_POINTS:
            return
        step, planned, values = point
        self._points[name][step] = values
        self.steps = (step, planned or self.steps[1])


def finished_curves(training: TrainingRecord) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of a finished update, as `TrainingCurves.refresh` does."""
    curves = {}
    for name, values in (("reward", training.reward), ("kl", training.kl), ("entropy", training.entropy)):
        points = [(step, value) for step, value in enumerate(values[:MAX_POINTS], 1) if value is not None]
        curves |= {name: points} if points else {}
    return curves


def _parse_point(data: bytes) -> tuple[int, int | None, dict[str, float]] | None:
    figures = finite_figures(data)
    if "step" not in figures:
        return None
    values = {name: float(figures[name]) for name in CURVE_NAMES if name in figures}
    return int(figures["step"]), as_int(figures.get("steps")), values


def _parse_log_line(data: bytes) -> tuple[int, int | None, dict[str, float]] | None:
    match = _LOG_LINE.match(data[:400].decode(errors="replace"))
    if not match:
        return None
    try:
        values = {name: float(match[at]) for name, at in (("reward", 3), ("kl", 4), ("entropy", 5))}
    except ValueError:
        return None
    return int(match[1]), int(match[2]), {name: value for name, value in values.items() if math.isfinite(value)}


@dataclass(frozen=True, slots=True)
class FinalTestResult:
    """One use of the test set. `standing`: lines on an official grader's score and medal, none if there are none."""

    generation: int | None
    score: Score | None
    outcomes: Mapping[str, int]
    standing: list[str]
    at: str = ""  # ISO 8601


def read_test_results(journal: JournalReader) -> list[FinalTestResult]:
    """Return each use of the test set, in order."""
    return [
        FinalTestResult(
            as_int((result := entry["result"]).get("generation")),
            Score.parse(result.get("score")),
            parse_counts(result.get("outcomes")),
            _standing_lines(result.get("standing")),
            str(entry.get("at", "")),
        )
        for step, entry in journal.done()
        if step.startswith("test/")
    ]


def _standing_lines(value: Any) -> list[str]:
    try:
        return leaderboard_lines(value)
    except (AttributeError, KeyError, TypeError, ValueError):
        return []


_MAX_INDEXES = 3  # indexes of questions kept in memory; _ENTRIES limits their entries together
_MAX_INDEX_ENTRIES = 500_000
_MAX_SUMMARY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of a run that a page shows first.

    `best`: the incumbent. `minutes`: of all generations. `summary`: as it is on disk,
    empty before the first verdict. `holder`: the lease of the process that writes it now, or None.
    """

    path: Path
    status: str
    config: Json
    summary: Json
    generations: list[GenerationRecord]
    tests: list[FinalTestResult]
    best: int | None
    stopped: str
    limits: Mapping[str, float | None]
    spending: RunTotals
    counted: bool  # False while the ledger is still being added up
    minutes: float
    jobs: list[dict[str, str]]
    holder: Json | None
    resume: str  # the command that continues the run, or ""
    fault: str

    @property
    def task(self) -> str:
        """The name of the task, "" if it is not known."""
        return str(as_dict(self.config.get("task")).get("name", ""))

    @property
    def mode(self) -> str:
        """The mode (SIA-H, SIA-W+H), "" if it is not known."""
        return str(as_dict(self.config.get("trainer")).get("mode", ""))


class RunReader:
    """A run directory. `refresh` reads what changed; everything else is of the last refresh. Not thread safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = JournalReader(path / "journal.jsonl", strict=False)
        self.spending = SpendingReader(path)
        self._answers: OrderedDict[str, QuestionIndex] = OrderedDict()
        self._curves: dict[int, TrainingCurves] = {}
        self._config: tuple[FileStamp | None, Json] = (None, {})
        self._summary: tuple[FileStamp | None, Json] = (None, {})
        self._holder: Json | None = None
        self._totals = RunTotals()
        self.complete = False  # whether the last refresh read everything on disk

    def refresh(self) -> bool:
        """Read what is new. Return True if anything changed."""
        before = (self._config[0], self._summary[0], self._totals, self._holder)
        changed = self.journal.refresh()
        self._config = self._newer("config.yaml", self._config)
        self._summary = self._newer("summary.json", self._summary)
        self.complete = self.spending.refresh()
        self._holder = lease_holder(self.path)
        self._totals = self.spending.totals(alive=self._holder is not None)
        return changed or before != (self._config[0], self._summary[0], self._totals, self._holder)

    def view(self) -> RunState:
        """Return the state of the run at the last refresh."""
        summary, settings = self._summary[1], self._config[1]
        alive = self._holder is not None
        end_entry = next(reversed([*self.journal.of("ended")]), {})
        status = run_status(summary.get("status"), summary.get("waits") is not None, alive)
        resumed = [str(text) for entry in self.journal.of("resumed") for text in entry.get("overrides") or []]
        done = read_generations(self.journal, alive)
        stopped = next((str(entry.get("reason", "")) for entry in self.journal.of("stopped")), "")
        return RunState(
            path=self.path,
            status=status,
            config=settings,
            summary=summary,
            generations=done,
            tests=read_test_results(self.journal),
            best=find_incumbent(done) or as_int(end_entry.get("best")),
            stopped=stopped,
            limits=budget_limits(settings, resumed),
            spending=self._totals,
            counted=self.complete,
            minutes=minutes_spent(self.journal),
            jobs=self.journal.jobs(),
            holder=self._holder,
            resume=self._resume(status),
            fault=self.journal.fault,
        )

    def curves(self) -> dict[int, dict[str, list[tuple[int, float]]]]:
        """Return generation -> curve -> (step, value), also of the update under way."""
        curves_by_generation = {}
        for generation in read_generations(self.journal, self._holder is not None):
            if generation.training:
                curves_by_generation[generation.n] = finished_curves(generation.training)
            elif generation.lever in ("weights", "both") and "build" not in generation.seconds:
                curves_by_generation[generation.n] = self._curves.setdefault(
                    generation.n, TrainingCurves(self.path, generation.n)
                ).refresh()
        return {n: named for n, named in curves_by_generation.items() if named}

    def answers(self, folder: str) -> QuestionIndex:
        """Return the index of ``gen_3`` or ``test/gen_3``. The most recent indexes are kept."""
        index = self._answers.pop(folder) if folder in self._answers else QuestionIndex(self.path, folder)
        self._answers[folder] = index
        while len(self._answers) > _MAX_INDEXES or (self.entries > _MAX_INDEX_ENTRIES and len(self._answers) > 1):
            self._answers.popitem(last=False)
        return index

    @property
    def entries(self) -> int:
        """The number of questions and calls in all indexes that are kept."""
        return sum(len(index) for index in list(self._answers.values()))

    def decision(self, n: int) -> Json:
        """Return decision.json of a generation: the lever, and the evidence for it. Empty if there is none."""
        return as_dict(load_json(self.path, f"gen_{n}/decision.json", 1 << 20))

    def _newer(self, name: str, cached: tuple[FileStamp | None, Json]) -> tuple[FileStamp | None, Json]:
        current = file_stamp(self.path, name)
        if current == cached[0]:
            return cached
        return current, read_config(self.path) if name == "config.yaml" else as_dict(
            load_json(self.path, name, _MAX_SUMMARY_BYTES)
        )

    def _resume(self, status: str) -> str:
        where = shlex.quote(str(self.path))
        if status == "waits":
            return f"python -m sia_runner approve {where}"
        return f"python -m sia_runner resume={where}" if status in ("cut", "interrupted", "budget") else ""
