"""One run directory, kept up to date: its state, its spending and its training curves.

A refresh reads what changed, and reads nothing twice."""

import json
import math
import re
import shlex
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.gateway.ledger_files import AccountTotals, LedgerFile, parse_lines
from sia_runner.results.index import lease_holder, read_config, run_status
from sia_runner.results.journal import GenerationRecord, JournalReader, read_generations, read_test_scores
from sia_runner.results.questions import QuestionIndex
from sia_runner.store.files import FileStamp, LineReader, file_stamp, list_folder, load_json

BUDGET_UNITS = ("usd", "tokens", "calls", "minutes")
_LEASES_FILE = "leases.jsonl"
_LEDGER_SLICE = 1 << 20  # bytes read between two checks of the deadline
Json = dict[str, Any]


class _LedgerRows(LedgerFile):
    """A ledger reader without the per-budget sums, which only processes that spend need: half the time."""

    def _move(self, *_: Any, **__: Any) -> None:
        pass


class SpendingReader:
    """The sums of RUN/ledger as it grows.

    Calls that were sent and not answered are counted as under way. Once the run's process is gone they count at what
    was reserved for them, as the run itself counts them.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._books: dict[str, tuple[LineReader, LedgerFile]] = {}

    def refresh(self, seconds: float = 0.1) -> bool:
        """Read on for about `seconds`. Return True once everything on disk has been added up."""
        deadline = time.monotonic() + seconds
        for entry in list_folder(self._run, "ledger"):
            if entry.kind == "file" and entry.name.endswith(".jsonl") and entry.name != _LEASES_FILE:
                name = f"ledger/{entry.name}"
                self._books.setdefault(name, (LineReader(self._run, name), _LedgerRows()))
        for name in self._books:
            while self._slice(name):
                if time.monotonic() > deadline:
                    return False
        return True

    def _slice(self, name: str) -> bool:
        """Read a part of what is new in one file. Return True if there was anything."""
        lines, book = self._books[name]
        before = lines.offset
        for line in lines.fresh(_LEDGER_SLICE):
            if lines.restarted:
                book = _LedgerRows()
                self._books[name] = (lines, book)
                lines.restarted = False
            _add_lines(book, line.data)
        return lines.offset != before

    def totals(self, *, alive: bool) -> Json:
        """Return the sums in usd, tokens and calls.

        The keys are ``{"total": …, "generations": {n: …}, "purposes": {name: …}, "in_flight"}``.
        """
        total, by_generation, by_purpose = AccountTotals(), dict[int, AccountTotals](), dict[str, AccountTotals]()
        in_flight = 0
        for _, book in self._books.values():
            in_flight += len(book.under_way) if alive else 0
            for account, row in _rows(book, alive):
                total.add(row)
                by_generation.setdefault(account.generation, AccountTotals()).add(row)
                by_purpose.setdefault(str(account.purpose), AccountTotals()).add(row)
        return {
            "total": _row_json(total),
            "generations": {n: _row_json(row) for n, row in sorted(by_generation.items()) if n},
            "purposes": {name: _row_json(row) for name, row in sorted(by_purpose.items())},
            "in_flight": in_flight,
        }


def budget_limits(config: Mapping[str, Any], resumed: list[str]) -> Json:
    """Return ``{"usd": 5.0, …}``, None for no limit: the config's, with the overrides of resumes (``budget.usd=9``)."""
    budget = config.get("budget")
    result: Json = {
        unit: _parse_limit(str(budget.get(unit))) if isinstance(budget, dict) else None for unit in BUDGET_UNITS
    }
    for override in resumed:
        key, _, value = override.partition("=")
        unit = key.removeprefix("budget.")
        if unit != key and unit in BUDGET_UNITS:
            result[unit] = _parse_limit(value)
    return result


def _add_lines(book: LedgerFile, data: bytes) -> None:
    for line in parse_lines(data):
        try:
            book.add(line)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # the file is damaged: count the other lines


def _rows(book: LedgerFile, alive: bool) -> list[tuple[Any, AccountTotals]]:
    rows = list(book.rows.items())
    if not alive:
        rows += [(attempt.account, _reserved_row(attempt)) for attempt in book.under_way.values()]
    return rows


def _reserved_row(attempt: Any) -> AccountTotals:
    return AccountTotals(
        attempt.usd or 0, attempt.input, attempt.output, calls=1, unanswered=1, unpriced=int(attempt.usd is None)
    )


def _row_json(row: AccountTotals) -> Json:
    usd = round(row.dollars, 9) if row.priced else None
    tokens = row.input_tokens + row.output_tokens
    return {"usd": usd, "tokens": tokens, "calls": row.calls, "unanswered": row.unanswered}


def _parse_limit(text: str) -> float | None:
    try:
        return float(text) if math.isfinite(float(text)) else None
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


def finished_curves(training: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    """Return the curves of a finished update, as `Curves.refresh` does. `training`: as in generations.py."""
    curves = {}
    for name in CURVE_NAMES:
        values = (training.get(name) or [])[:MAX_POINTS]
        points = [(step, value) for step, value in enumerate(values, 1) if value is not None]
        curves |= {name: points} if points else {}
    return curves


def _parse_point(data: bytes) -> tuple[int, int | None, dict[str, float]] | None:
    try:
        line = json.loads(data)
        values = {name: float(line[name]) for name in CURVE_NAMES if isinstance(line.get(name), int | float)}
        planned = line.get("steps")
        return int(line["step"]), planned if isinstance(planned, int) else None, _finite_values(values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def _parse_log_line(data: bytes) -> tuple[int, int | None, dict[str, float]] | None:
    match = _LOG_LINE.match(data[:400].decode(errors="replace"))
    if not match:
        return None
    try:
        values = {name: float(match[at]) for name, at in (("reward", 3), ("kl", 4), ("entropy", 5))}
        return int(match[1]), int(match[2]), _finite_values(values)
    except ValueError:
        return None


def _finite_values(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if abs(value) < float("inf")}


_MAX_INDEXES = 3  # indexes of questions kept in memory; _ENTRIES limits their entries together
_MAX_INDEX_ENTRIES = 500_000
_MAX_SUMMARY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of a run that a page shows first.

    `best`: the incumbent. `spending`: as `Spending.totals`. `minutes`: of all generations. `summary`: as it is on disk,
    empty before the first verdict. `holder`: the lease of the process that writes it now, or None.
    """

    path: Path
    status: str
    config: Json
    summary: Json
    generations: list[GenerationRecord]
    tests: list[Json]
    best: int | None
    stopped: str
    limits: Json
    spending: Json
    counted: bool  # False while the ledger is still being added up
    minutes: float
    jobs: list[Json]
    holder: Json | None
    resume: str  # the command that continues the run, or ""
    fault: str

    @property
    def task(self) -> str:
        """The name of the task, "" if it is not known."""
        return str(_dict(self.config.get("task")).get("name", ""))

    @property
    def mode(self) -> str:
        """The mode (SIA-H, SIA-W+H), "" if it is not known."""
        return str(_dict(self.config.get("trainer")).get("mode", ""))


class RunReader:
    """A run directory. `refresh` reads what changed; everything else is of the last refresh. Not thread safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = JournalReader(path)
        self.spending = SpendingReader(path)
        self._answers: OrderedDict[str, QuestionIndex] = OrderedDict()
        self._curves: dict[int, TrainingCurves] = {}
        self._config: tuple[FileStamp | None, Json] = (None, {})
        self._summary: tuple[FileStamp | None, Json] = (None, {})
        self._holder: Json | None = None
        self._totals: Json = {}
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
        end_entry = next((entry for entry in reversed(self.journal.entries) if entry.get("event") == "ended"), {})
        status = run_status(summary.get("status"), summary.get("waits") is not None, alive)
        resumed = [str(text) for entry in self.journal.of("resumed") for text in entry.get("overrides") or []]
        done = read_generations(self.journal, alive)
        accepted = [generation.n for generation in done if generation.status == "accepted"]
        stopped = next((str(entry.get("reason", "")) for entry in self.journal.of("stopped")), "")
        return RunState(
            path=self.path,
            status=status,
            config=settings,
            summary=summary,
            generations=done,
            tests=read_test_scores(self.journal),
            best=accepted[-1] if accepted else end_entry.get("best"),
            stopped=stopped,
            limits=budget_limits(settings, resumed),
            spending=self._totals,
            counted=self.complete,
            minutes=self.journal.seconds() / 60,
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
        return _dict(load_json(self.path, f"gen_{n}/decision.json", 1 << 20))

    def _newer(self, name: str, cached: tuple[FileStamp | None, Json]) -> tuple[FileStamp | None, Json]:
        current = file_stamp(self.path, name)
        if current == cached[0]:
            return cached
        return current, read_config(self.path) if name == "config.yaml" else _dict(
            load_json(self.path, name, _MAX_SUMMARY_BYTES)
        )

    def _resume(self, status: str) -> str:
        where = shlex.quote(str(self.path))
        if status == "waits":
            return f"python -m sia_runner approve {where}"
        return f"python -m sia_runner resume={where}" if status in ("cut", "interrupted", "budget") else ""


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
