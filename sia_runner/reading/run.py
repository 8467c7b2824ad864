"""One run directory, kept up to date: a refresh reads what changed, and reads nothing twice."""

import shlex
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.reading.alive import holder
from sia_runner.reading.answers import Answers
from sia_runner.reading.configs import config
from sia_runner.reading.curves import Curves, of_training
from sia_runner.reading.files import Stamp, json_of, stamp
from sia_runner.reading.generations import Generation, generations, tests
from sia_runner.reading.index import state
from sia_runner.reading.journal import Journal
from sia_runner.reading.spending import Json, Spending, limits

_ANSWERS = 3  # indexes of questions kept in memory; _ENTRIES limits their entries together
_ENTRIES = 500_000
_SUMMARY = 64 << 20


@dataclass(frozen=True, slots=True)
class View:
    """The state of a run that a page shows first.

    `best`: the incumbent. `spending`: as `Spending.totals`. `minutes`: of all generations. `summary`: as it is on disk,
    empty before the first verdict. `holder`: the lease of the process that writes it now, or None.
    """

    path: Path
    status: str
    config: Json
    summary: Json
    generations: list[Generation]
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


class Run:
    """A run directory. `refresh` reads what changed; everything else is of the last refresh. Not thread safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path)
        self.spending = Spending(path)
        self._answers: OrderedDict[str, Answers] = OrderedDict()
        self._curves: dict[int, Curves] = {}
        self._config: tuple[Stamp | None, Json] = (None, {})
        self._summary: tuple[Stamp | None, Json] = (None, {})
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
        self._holder = holder(self.path)
        self._totals = self.spending.totals(alive=self._holder is not None)
        return changed or before != (self._config[0], self._summary[0], self._totals, self._holder)

    def view(self) -> View:
        """Return the state of the run at the last refresh."""
        summary, settings = self._summary[1], self._config[1]
        alive = self._holder is not None
        end_entry = next((entry for entry in reversed(self.journal.entries) if entry.get("event") == "ended"), {})
        status = state(summary.get("status"), summary.get("waits") is not None, alive)
        resumed = [str(text) for entry in self.journal.of("resumed") for text in entry.get("overrides") or []]
        done = generations(self.journal, alive)
        accepted = [generation.n for generation in done if generation.status == "accepted"]
        stopped = next((str(entry.get("reason", "")) for entry in self.journal.of("stopped")), "")
        return View(
            path=self.path,
            status=status,
            config=settings,
            summary=summary,
            generations=done,
            tests=tests(self.journal),
            best=accepted[-1] if accepted else end_entry.get("best"),
            stopped=stopped,
            limits=limits(settings, resumed),
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
        for generation in generations(self.journal, self._holder is not None):
            if generation.training:
                curves_by_generation[generation.n] = of_training(generation.training)
            elif generation.lever in ("weights", "both") and "build" not in generation.seconds:
                curves_by_generation[generation.n] = self._curves.setdefault(
                    generation.n, Curves(self.path, generation.n)
                ).refresh()
        return {n: named for n, named in curves_by_generation.items() if named}

    def answers(self, folder: str) -> Answers:
        """Return the index of ``gen_3`` or ``test/gen_3``. The most recent indexes are kept."""
        index = self._answers.pop(folder) if folder in self._answers else Answers(self.path, folder)
        self._answers[folder] = index
        while len(self._answers) > _ANSWERS or (self.entries > _ENTRIES and len(self._answers) > 1):
            self._answers.popitem(last=False)
        return index

    @property
    def entries(self) -> int:
        """The number of questions and calls in all indexes that are kept."""
        return sum(len(index) for index in list(self._answers.values()))

    def decision(self, n: int) -> Json:
        """Return decision.json of a generation: the lever, and the evidence for it. Empty if there is none."""
        return _dict(json_of(self.path, f"gen_{n}/decision.json", 1 << 20))

    def _newer(self, name: str, cached: tuple[Stamp | None, Json]) -> tuple[Stamp | None, Json]:
        current = stamp(self.path, name)
        if current == cached[0]:
            return cached
        return current, config(self.path) if name == "config.yaml" else _dict(json_of(self.path, name, _SUMMARY))

    def _resume(self, status: str) -> str:
        where = shlex.quote(str(self.path))
        if status == "waits":
            return f"python -m sia_runner.approve {where}"
        return f"python -m sia_runner resume={where}" if status in ("cut", "interrupted", "budget") else ""


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
