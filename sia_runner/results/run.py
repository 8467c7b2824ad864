"""One run directory, kept up to date: its state, its spending and its training curves. Nothing is read twice."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sia_runner.gateway.ledger_files import REGISTER, LedgerFile, RunTotals, add_up
from sia_runner.records import Json, Score
from sia_runner.results.index import MAX_SUMMARY_BYTES, lease_holder, read_config, run_status
from sia_runner.results.questions import QuestionIndex
from sia_runner.selection.scoring import leaderboard_lines
from sia_runner.store import files
from sia_runner.store.generations import GenerationRecord, TrainingRecord, parse_counts
from sia_runner.store.journal import JournalReader, read_generations

_BUDGET_UNITS = ("usd", "tokens", "calls", "minutes")
_LEDGER_SLICE = 1 << 20  # bytes read between two checks of the deadline


class SpendingReader:
    """The sums of RUN/ledger as it grows."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._files: dict[str, tuple[files.LineReader, LedgerFile]] = {}

    def refresh(self, seconds: float = 0.1) -> bool:
        """Read on for about `seconds`. Return True once everything on disk has been added up."""
        deadline = time.monotonic() + seconds
        for entry in files.list_folder(self._run, "ledger"):
            if entry.kind == "file" and entry.name.endswith(".jsonl") and entry.name != REGISTER:
                name = f"ledger/{entry.name}"
                self._files.setdefault(name, (files.LineReader(self._run, name), LedgerFile(keeps_pools=False)))
        for name in self._files:
            while self._slice(name):
                if time.monotonic() > deadline:
                    return False
        return True

    def _slice(self, name: str) -> bool:
        lines, ledger_file = self._files[name]
        before = lines.offset
        for line in lines.fresh(_LEDGER_SLICE):
            if lines.restarted:
                ledger_file = LedgerFile(keeps_pools=False)
                self._files[name] = (lines, ledger_file)
                lines.restarted = False
            try:
                ledger_file.add(files.parse_object(line.data) or {})
            except (KeyError, TypeError, ValueError, AttributeError):
                continue  # the file is damaged: count the other lines
        return lines.offset != before

    def totals(self, *, alive: bool) -> RunTotals:
        """Return the sums. Unless the process is `alive`, unanswered calls count at what was reserved for them."""
        return add_up([ledger_file for _, ledger_file in self._files.values()], alive=alive)


def budget_limits(config: Json, journal: JournalReader) -> dict[str, float | None]:
    """Return ``{"usd": 5.0, …}``, None for no limit: the config's, with the overrides of resumes (``budget.usd=9``)."""
    budget = files.as_dict(config.get("budget"))
    limits = {unit: str(budget.get(unit)) for unit in _BUDGET_UNITS}
    for entry in journal.of("resumed"):
        for override in entry.get("overrides") or []:
            key, _, value = str(override).partition("=")
            if key.startswith("budget.") and (unit := key.removeprefix("budget.")) in limits:
                limits[unit] = value
    numbers: dict[str, float | None] = dict.fromkeys(limits)
    for unit, text in limits.items():
        with suppress(ValueError):
            numbers[unit] = files.as_number(float(text))
    return numbers


_MAX_POINTS = 2_000  # of each curve at most
_CURVE_NAMES = ("reward", "kl", "entropy", "length", "drift_kl", "drift_share")


class _TrainingCurves:
    """The curves of one generation that is still training, from what its job writes."""

    def __init__(self, run: Path, n: int) -> None:
        self._lines = files.LineReader(run, f"gen_{n}/curve.jsonl")
        self._figures: dict[int, dict[str, float]] = {}  # by step

    def refresh(self) -> dict[str, list[tuple[int, float]]]:
        """Return curve name -> (step, value), in order. A step repeated after a kill is in it once."""
        for at, line in enumerate(self._lines.fresh()):
            if self._lines.restarted and at == 0:
                self._figures.clear()
            figures = files.finite_figures(line.data)
            if "step" in figures and len(self._figures) < _MAX_POINTS:
                self._figures[int(figures["step"])] = figures
        steps = sorted(self._figures.items())
        curves = {name: [(step, float(at[name])) for step, at in steps if name in at] for name in _CURVE_NAMES}
        return {name: points for name, points in curves.items() if points}


def finished_curves(training: TrainingRecord) -> dict[str, list[tuple[int, float]]]:
    """Return curve name -> (step, value), in order, of a finished update."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for name in _CURVE_NAMES:
        values: Sequence[float | None] = getattr(training, name, [])  # a finished update has no lengths
        if points := [(step, value) for step, value in enumerate(values[:_MAX_POINTS], 1) if value is not None]:
            curves[name] = points
    return curves


@dataclass(frozen=True, slots=True)
class FinalTestResult:
    """One use of the test set. `leaderboard`: lines on an official grader's score and medal, none if there are none."""

    generation: int | None
    score: Score | None
    outcomes: Mapping[str, int]
    leaderboard: list[str]


def read_test_results(journal: JournalReader) -> list[FinalTestResult]:
    """Return each use of the test set, in order."""
    results: list[FinalTestResult] = []
    for step, entry in journal.done():
        if step.startswith("test/"):
            result, lines = entry["result"], list[str]()
            with suppress(AttributeError, KeyError, TypeError, ValueError):
                lines = leaderboard_lines(result.get("standing"))
            n, score = files.as_int(result.get("generation")), Score.parse(result.get("score"))
            results.append(FinalTestResult(n, score, parse_counts(result.get("outcomes")), lines))
    return results


_MAX_INDEXES = 3  # indexes of questions kept in memory
_MAX_INDEX_ENTRIES = 500_000  # of all of them together


class RunReader:
    """A run directory. `refresh` reads what changed; everything else is of the last refresh. Not thread safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = JournalReader(path / "journal.jsonl", strict=False)
        self.config: Json = {}  # as on disk, empty if it cannot be read
        self.summary: Json = {}
        self.holder: Json | None = None  # the lease of the process that writes the run now
        self.spending = RunTotals()
        self.complete = False  # whether the last refresh read the whole ledger
        self._stamps: tuple[files.FileStamp | None, files.FileStamp | None] = (None, None)
        self._ledger = SpendingReader(path)
        self._answers: OrderedDict[str, QuestionIndex] = OrderedDict()
        self._curves: dict[int, _TrainingCurves] = {}

    def refresh(self) -> bool:
        """Read what is new. Return True if anything changed."""
        before = (self._stamps, self.spending, self.holder)
        changed = self.journal.refresh()
        self._stamps = (files.file_stamp(self.path, "config.yaml"), files.file_stamp(self.path, "summary.json"))
        if self._stamps[0] != before[0][0]:
            self.config = read_config(self.path)
        if self._stamps[1] != before[0][1]:
            self.summary = files.as_dict(files.load_json(self.path, "summary.json", MAX_SUMMARY_BYTES))
        self.complete = self._ledger.refresh()
        self.holder = lease_holder(self.path)
        self.spending = self._ledger.totals(alive=self.holder is not None)
        return changed or before != (self._stamps, self.spending, self.holder)

    @property
    def status(self) -> str:
        """The present status, as the list of runs shows it."""
        return run_status(self.summary.get("status"), self.summary.get("waits") is not None, self.holder is not None)

    @property
    def generations(self) -> list[GenerationRecord]:
        """The generations in order, also those without a verdict."""
        return read_generations(self.journal, self.holder is not None)

    def curves(self) -> dict[int, dict[str, list[tuple[int, float]]]]:
        """Return generation -> curve -> (step, value), also of the update under way."""
        curves_by_generation = {}
        for generation in self.generations:
            n = generation.n
            if generation.training:
                curves_by_generation[n] = finished_curves(generation.training)
            elif generation.lever in ("weights", "both") and "build" not in generation.seconds:
                curves_by_generation[n] = self._curves.setdefault(n, _TrainingCurves(self.path, n)).refresh()
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
