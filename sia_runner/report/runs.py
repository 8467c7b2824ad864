"""What one run says, whatever became of it: figures of its journal, costs of its summary, answers on test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sia_runner.compare.scores import Arm, read_arms
from sia_runner.reading.alive import holder
from sia_runner.reading.configs import config
from sia_runner.reading.files import json_of
from sia_runner.reading.generations import Generation, generations, tests
from sia_runner.reading.index import state
from sia_runner.reading.journal import Journal
from sia_runner.records import Outcome
from sia_runner.report.found import Found
from sia_runner.report.kept import MOST, answers_of, as_dict, as_number, as_text, faults, usages
from sia_runner.rundir import RunDir, RunError

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ran:
    """`arm`: what a comparison of test answers needs; None where `not_compared` says why there is none. `tests`:
    generation -> ``{"score", "outcomes", "standing"}``; `answers`: generation -> its outcomes on test, where the file
    is as it was written. `usage` None: no summary yet. Seconds are those of all finished steps, the tests included."""

    name: str
    path: Path
    status: str
    why: str
    task: str
    mode: str
    trainer: str
    seed: int | None
    metric: str = ""
    higher_is_better: bool = True
    selected_on_test: bool = False
    generations: tuple[Generation, ...] = ()
    best: int | None = None
    tests: Mapping[int, Json] = field(default_factory=dict)
    answers: Mapping[int, tuple[Outcome, ...]] = field(default_factory=dict)
    usage: Json | None = None
    usage_by_generation: Mapping[int, Json] = field(default_factory=dict)
    seconds: float = 0.0
    looks: int = 0
    config: Json = field(default_factory=dict)
    lock: Json = field(default_factory=dict)
    resumed: tuple[str, ...] = ()  # overrides of each resume
    arm: Arm | None = None
    not_compared: str = ""
    faults: tuple[str, ...] = ()  # what does not hold in its files

    @property
    def first(self) -> int | None:
        """The generation whose harness is the baseline."""
        return self.generations[0].n if self.generations else None

    def tested(self, n: int | None) -> Json | None:
        """Score of generation `n` on test."""
        return self.tests[n]["score"] if n is not None and n in self.tests else None

    @property
    def initial(self) -> Json | None:
        return self.tested(self.first)

    @property
    def final(self) -> Json | None:
        return self.tested(self.best)

    @property
    def standing(self) -> Sequence[str]:
        """What an official grader and a leaderboard say of the best one, in lines; empty for tasks without."""
        return self.tests[self.best].get("standing", ()) if self.best is not None and self.best in self.tests else ()


def read(found: Found) -> Ran:
    """Never raises for what is in the folder: what does not hold is in `faults`, and the run is shown with them."""
    journal = Journal(found.path)
    journal.refresh()
    given, summary = config(found.path), as_dict(json_of(found.path, "summary.json", MOST))
    alive = holder(found.path) is not None
    run = _declared(
        found, given, summary, state(as_text(summary.get("status")) or None, summary.get("waits") is not None, alive)
    )
    if not given:
        return run
    metric = as_dict(summary.get("metric")) or as_dict(as_dict(given.get("task")).get("metric"))
    known = generations(journal, alive)
    best = next((g.n for g in reversed(known) if g.status == "accepted"), None)
    tested = {test["generation"]: test for test in tests(journal) if isinstance(test["generation"], int)}
    arm, not_compared = _arm(found)
    return replace(
        run,
        why=found.said or _why(run.status, journal, known),
        metric=as_text(metric.get("name")),
        higher_is_better=metric.get("higher_is_better") is not False,
        selected_on_test=summary.get("selected_on_test") is True,
        generations=tuple(known),
        best=best,
        tests=tested,
        answers={n: answers for n in tested if (answers := answers_of(found.path, journal, n))},
        usage=summary.get("usage") if isinstance(summary.get("usage"), dict) else None,
        usage_by_generation=usages(summary),
        seconds=round(sum(as_number(entry.get("seconds")) for _, entry in journal.done()), 1),
        looks=len(tests(journal)),
        lock=as_dict(json_of(found.path, "lock.json")),
        resumed=tuple(" ".join(map(str, entry.get("overrides", []))) for entry in journal.of("resumed")),
        arm=arm,
        not_compared=not_compared,
        faults=tuple(faults(journal, {} if alive else summary, best, tested)),
    )


def _declared(found: Found, given: Json, summary: Json, status: str) -> Ran:
    """What is known before anything happened: from its config, or from the plan of its sweep. A task's own name is in
    the summary: of mlebench that is the competition's."""
    task, trainer, planned = as_dict(given.get("task")), as_dict(given.get("trainer")), found.planned
    broken = found.ended in ("crashed", "refused", "damaged", "missing")
    ended = found.ended if not given or (status in ("cut", "running") and broken) else status
    seed = given.get("seed")
    return Ran(
        name=found.name,
        path=found.path,
        status=ended or "missing",
        why=found.said or ("" if given else "it never began, or its config.yaml cannot be read"),
        task=as_text(summary.get("task")) or as_text(task.get("name")) or (planned.task if planned else "?"),
        mode=as_text(trainer.get("mode")) or (planned.mode if planned else "?"),
        trainer=as_text(trainer.get("name")) or _planned_trainer(found),
        seed=seed if isinstance(seed, int) else planned.seed if planned else None,
        config=given,
        not_compared="it never began",
    )


def _planned_trainer(found: Found) -> str:
    given = dict(one.split("=", 1) for one in (found.planned.overrides if found.planned else ()) if "=" in one)
    return given.get("trainer") or ("none" if found.planned and found.planned.mode == "SIA-H" else "auto")


def _arm(found: Found) -> tuple[Arm | None, str]:
    try:
        arm = read_arms([RunDir(found.path)])[0]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        return None, f"its configuration is not one of this version ({key}: {first['msg']})"
    except RunError as error:
        return None, str(error).removeprefix(f"{found.path} ").removeprefix(f"{found.path}: ")
    return replace(arm, row=arm.row | {"run": found.name}), ""


def _why(status: str, journal: Journal, known: list[Generation]) -> str:
    """In the run's own words, where it did not end well."""
    if status in ("completed", "running"):
        return next((f"stopped: {entry.get('reason')}" for entry in journal.of("stopped")), "")
    spent = next((str(entry.get("reason")) for entry in journal.of("budget")), "")
    reasons = [f"generation {g.n}: {g.reason}" for g in known if g.status in ("failed", "unscored")]
    cut = [f"in generation {g.n}: {g.step}" for g in known if g.step]
    return spent or next(iter([*cut, *reversed(reasons)]), "")
