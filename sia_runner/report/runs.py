"""One run for the report, whatever became of it: scores of its journal, costs of its summary, answers on test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

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
from sia_runner.report.kept import MOST, Json, answers_of, as_dict, as_number, as_text, faults, usages
from sia_runner.rundir import RunDir, RunError


@dataclass(frozen=True, slots=True)
class Ran:
    """A run in the report.

    `arm`: what a comparison of test answers needs, None if `not_compared` says why. `tests`: generation -> ``{"score",
    "outcomes", "standing"}``. `answers`: generation -> its outcomes on test, if the file is unchanged. `usage` None:
    there is no summary yet. `seconds`: of all finished steps, the tests included.
    """

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
    faults: tuple[str, ...] = ()  # contradictions in its files

    @property
    def first(self) -> int | None:
        """The generation whose harness is the baseline."""
        return self.generations[0].n if self.generations else None

    def tested(self, n: int | None) -> Json | None:
        """Return the score of generation `n` on test, or None."""
        return self.tests[n]["score"] if n is not None and n in self.tests else None

    @property
    def initial(self) -> Json | None:
        """The test score of the first harness."""
        return self.tested(self.first)

    @property
    def final(self) -> Json | None:
        """The test score of the best candidate."""
        return self.tested(self.best)

    @property
    def standing(self) -> Sequence[str]:
        """Lines on an official grader's and a leaderboard's result for the best candidate; empty for tasks without."""
        return self.tests[self.best].get("standing", ()) if self.best is not None and self.best in self.tests else ()


def read(source: Found) -> Ran:
    """Read a run. Never raises for what is in the folder: problems are listed in `faults`, and the run is shown."""
    journal = Journal(source.path)
    journal.refresh()
    settings, summary = config(source.path), as_dict(json_of(source.path, "summary.json", MOST))
    alive = holder(source.path) is not None
    run = _declared(
        source,
        settings,
        summary,
        state(as_text(summary.get("status")) or None, summary.get("waits") is not None, alive),
    )
    if not settings:
        return run
    metric = as_dict(summary.get("metric")) or as_dict(as_dict(settings.get("task")).get("metric"))
    finished = generations(journal, alive)
    best = next((g.n for g in reversed(finished) if g.status == "accepted"), None)
    tested = {test["generation"]: test for test in tests(journal) if isinstance(test["generation"], int)}
    arm, not_compared = _arm(source)
    return replace(
        run,
        why=source.sweep_message or _reason(run.status, journal, finished),
        metric=as_text(metric.get("name")),
        higher_is_better=metric.get("higher_is_better") is not False,
        selected_on_test=summary.get("selected_on_test") is True,
        generations=tuple(finished),
        best=best,
        tests=tested,
        answers={n: answers for n in tested if (answers := answers_of(source.path, journal, n))},
        usage=summary.get("usage") if isinstance(summary.get("usage"), dict) else None,
        usage_by_generation=usages(summary),
        seconds=round(sum(as_number(entry.get("seconds")) for _, entry in journal.done()), 1),
        looks=len(tests(journal)),
        lock=as_dict(json_of(source.path, "lock.json")),
        resumed=tuple(" ".join(map(str, entry.get("overrides", []))) for entry in journal.of("resumed")),
        arm=arm,
        not_compared=not_compared,
        faults=tuple(faults(journal, {} if alive else summary, best, tested)),
    )


def _declared(source: Found, settings: Json, summary: Json, status: str) -> Ran:
    """Return what is known before anything happened, from the run's config or from the plan of its sweep.

    The task's own name is in the summary: for mlebench that is the competition's.
    """
    task, trainer, planned = as_dict(settings.get("task")), as_dict(settings.get("trainer")), source.planned
    broken = source.sweep_status in ("crashed", "refused", "damaged", "missing")
    outcome = source.sweep_status if not settings or (status in ("cut", "running") and broken) else status
    seed = settings.get("seed")
    return Ran(
        name=source.name,
        path=source.path,
        status=outcome or "missing",
        why=source.sweep_message or ("" if settings else "it never began, or its config.yaml cannot be read"),
        task=as_text(summary.get("task")) or as_text(task.get("name")) or (planned.task if planned else "?"),
        mode=as_text(trainer.get("mode")) or (planned.mode if planned else "?"),
        trainer=as_text(trainer.get("name")) or _planned_trainer(source),
        seed=seed if isinstance(seed, int) else planned.seed if planned else None,
        config=settings,
        not_compared="it never began",
    )


def _planned_trainer(source: Found) -> str:
    overrides = dict(
        override.split("=", 1) for override in (source.planned.overrides if source.planned else ()) if "=" in override
    )
    return overrides.get("trainer") or ("none" if source.planned and source.planned.mode == "SIA-H" else "auto")


def _arm(source: Found) -> tuple[Arm | None, str]:
    try:
        arm = read_arms([RunDir(source.path)])[0]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        return None, f"its configuration is not one of this version ({key}: {first['msg']})"
    except RunError as error:
        return None, str(error).removeprefix(f"{source.path} ").removeprefix(f"{source.path}: ")
    return replace(arm, row=arm.row | {"run": source.name}), ""


def _reason(status: str, journal: Journal, finished: list[Generation]) -> str:
    """Return the run's own reason, if it did not end well."""
    if status in ("completed", "running"):
        return next((f"stopped: {entry.get('reason')}" for entry in journal.of("stopped")), "")
    budget_reason = next((str(entry.get("reason")) for entry in journal.of("budget")), "")
    reasons = [f"generation {g.n}: {g.reason}" for g in finished if g.status in ("failed", "unscored")]
    cut = [f"in generation {g.n}: {g.step}" for g in finished if g.step]
    return budget_reason or next(iter([*cut, *reversed(reasons)]), "")
