"""One run, kept up to date: what changed is read, and nothing twice."""

import shlex
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.reading import curves, generations
from sia_runner.reading.alive import holder
from sia_runner.reading.answers import Answers
from sia_runner.reading.configs import config
from sia_runner.reading.files import Stamp, json_of, stamp
from sia_runner.reading.generations import Generation
from sia_runner.reading.index import state
from sia_runner.reading.journal import Journal
from sia_runner.reading.spending import Spending, limits

_ANSWERS = 3  # indexes of questions kept at a time, and the entries of all of them together
_ENTRIES = 500_000
_SUMMARY = 64 << 20
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class View:
    """What a page of a run shows first. `best`: the incumbent; `spent`: as `Spending.totals`; `minutes`: of all
    generations; `summary`: as it stands, empty before the first verdict; `holder`: who writes it now, or None."""

    path: Path
    status: str
    config: Json
    summary: Json
    generations: list[Generation]
    tests: list[Json]
    best: int | None
    stopped: str
    limits: Json
    spent: Json
    counted: bool  # False: the ledger is still being added up, `spent` is a part of it
    minutes: float
    jobs: list[Json]
    holder: Json | None
    resume: str  # the command, or "" where there is nothing to continue
    fault: str

    @property
    def task(self) -> str:
        return str(_dict(self.config.get("task")).get("name", ""))

    @property
    def mode(self) -> str:
        return str(_dict(self.config.get("trainer")).get("mode", ""))


class Run:
    """``run.refresh()`` says whether anything changed; `view` and the rest are of the last refresh. One thread at a
    time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path)
        self.spending = Spending(path)
        self._answers: OrderedDict[str, Answers] = OrderedDict()
        self._curves: dict[int, curves.Curves] = {}
        self._config: tuple[Stamp | None, Json] = (None, {})
        self._summary: tuple[Stamp | None, Json] = (None, {})
        self._holder: Json | None = None
        self._spent: Json = {}
        self.whole = False  # everything was read that was there at the last refresh

    def refresh(self) -> bool:
        before = (self._config[0], self._summary[0], self._spent, self._holder)
        changed = self.journal.refresh()
        self._config = self._newer("config.yaml", self._config)
        self._summary = self._newer("summary.json", self._summary)
        self.whole = self.spending.refresh()
        self._holder = holder(self.path)
        self._spent = self.spending.totals(alive=self._holder is not None)
        return changed or before != (self._config[0], self._summary[0], self._spent, self._holder)

    def view(self) -> View:
        summary, given = self._summary[1], self._config[1]
        alive = self._holder is not None
        ended = next((entry for entry in reversed(self.journal.entries) if entry.get("event") == "ended"), {})
        status = state(summary.get("status"), summary.get("waits") is not None, alive)
        resumed = [str(text) for entry in self.journal.of("resumed") for text in entry.get("overrides") or []]
        done = generations.generations(self.journal, alive)
        accepted = [one.n for one in done if one.status == "accepted"]
        stopped = next((str(entry.get("reason", "")) for entry in self.journal.of("stopped")), "")
        return View(
            path=self.path,
            status=status,
            config=given,
            summary=summary,
            generations=done,
            tests=generations.tests(self.journal),
            best=accepted[-1] if accepted else ended.get("best"),
            stopped=stopped,
            limits=limits(given, resumed),
            spent=self._spent,
            counted=self.whole,
            minutes=self.journal.seconds() / 60,
            jobs=self.journal.jobs(),
            holder=self._holder,
            resume=self._resume(status),
            fault=self.journal.fault,
        )

    def curves(self) -> dict[int, dict[str, list[tuple[int, float]]]]:
        """Generation -> curve -> (step, value), also of the update under way."""
        found = {}
        for one in generations.generations(self.journal, self._holder is not None):
            if one.training:
                found[one.n] = curves.of_training(one.training)
            elif one.lever in ("weights", "both") and "build" not in one.seconds:
                found[one.n] = self._curves.setdefault(one.n, curves.Curves(self.path, one.n)).refresh()
        return {n: named for n, named in found.items() if named}

    def answers(self, place: str) -> Answers:
        """Of ``gen_3`` or ``test/gen_3``; the ones asked for last are kept."""
        found = self._answers.pop(place) if place in self._answers else Answers(self.path, place)
        self._answers[place] = found
        while len(self._answers) > _ANSWERS or (self.entries > _ENTRIES and len(self._answers) > 1):
            self._answers.popitem(last=False)
        return found

    @property
    def entries(self) -> int:
        """Of all indexes that are kept."""
        return sum(len(one) for one in list(self._answers.values()))

    def decision(self, n: int) -> Json:
        """decision.json: which lever was pulled, and what was known when it was. Empty where there is none."""
        return _dict(json_of(self.path, f"gen_{n}/decision.json", 1 << 20))

    def _newer(self, name: str, kept: tuple[Stamp | None, Json]) -> tuple[Stamp | None, Json]:
        now = stamp(self.path, name)
        if now == kept[0]:
            return kept
        return now, config(self.path) if name == "config.yaml" else _dict(json_of(self.path, name, _SUMMARY))

    def _resume(self, status: str) -> str:
        where = shlex.quote(str(self.path))
        if status == "waits":
            return f"python -m sia_runner.approve {where}"
        return f"python -m sia_runner resume={where}" if status in ("cut", "interrupted", "budget") else ""


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
