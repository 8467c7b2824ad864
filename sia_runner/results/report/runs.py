"""The runs of a report, whatever became of each: which runs are meant, their scores, costs and test answers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sia_runner.records import Json, Outcome, Score
from sia_runner.results.compare import MAX_FILE_BYTES, FinishedRun, read_finished_runs, read_test_outcomes
from sia_runner.results.index import find_runs, lease_holder, read_config, run_status
from sia_runner.results.run import FinalTestResult, read_test_results
from sia_runner.selection.scoring import mean_value, paired_difference
from sia_runner.store.directions import Direction, read_directions
from sia_runner.store.files import as_dict, as_int, as_list, as_number, as_text, list_folder, load_json
from sia_runner.store.generations import SIA_WH, GenerationRecord, earned_mode
from sia_runner.store.journal import JournalReader, find_incumbent, read_generations
from sia_runner.store.run_directory import RunDir, RunDirectoryError
from sia_runner.sweep.plan import PlannedRun, SweepDir
from sia_runner.sweep.table import sweep_run_status
from sia_runner.system import bundled_folder
from sia_runner.text import one_line


def published_figures(config: Mapping[str, Any]) -> Json:
    """Return the figures that a configuration declares, empty if there are none."""
    task = as_dict(config.get("task"))
    if "published" in task:
        return as_dict(task["published"])
    shipped = _shipped_task(as_text(task.get("name")))
    same = as_dict(task.get("data")).get("sha256") == as_dict(shipped.get("data")).get("sha256")
    return as_dict(shipped.get("published")) if same else {}


@cache
def _shipped_task(name: str) -> Json:
    path = bundled_folder("conf") / "task" / f"{name}.yaml"
    if not re.fullmatch(r"\w{1,80}", name, re.ASCII) or not path.is_file():
        return {}
    return as_dict(yaml.safe_load(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class RunSource:
    """A run to report. `planned`, `sweep_status` (as in sweep_table), `sweep_message`: what its sweep knows, if any."""

    name: str
    path: Path
    planned: PlannedRun | None = None
    sweep_status: str = ""
    sweep_message: str = ""


def find_sources(folders: Sequence[Path]) -> list[RunSource]:
    """Return the runs in the order of folders and plans. Raises RunError for a folder without a run, or named twice."""
    runs: list[RunSource] = []
    for folder in folders:
        before = len(runs)
        runs += _runs_below(folder)
        if len(runs) == before:
            raise RunDirectoryError(f"{folder}: no run there, no folder of runs, and no sweep")
    paths = [run.path for run in runs]
    if twice := next((path for at, path in enumerate(paths) if path in paths[:at]), None):
        raise RunDirectoryError(f"{twice} is named twice")
    return [replace(run, name=_distinct_name(run, runs)) for run in runs]


def _runs_below(folder: Path) -> Iterator[RunSource]:
    if SweepDir(folder).is_sweep():
        yield from _sweep_runs(SweepDir(folder))
        return
    sweeps: set[str] = set()
    for path, part_of in find_runs(folder).items():
        if not part_of:
            yield RunSource((folder / path).name, folder / path)
        elif part_of not in sweeps:
            sweeps.add(part_of)
            yield from _sweep_runs(SweepDir(folder / part_of))


def _sweep_runs(sweep: SweepDir) -> Iterator[RunSource]:
    try:
        plan = sweep.read_plan()
    except (ValueError, TypeError, KeyError) as error:
        problem = f"cannot be read ({type(error).__name__}); name the runs themselves"
        raise RunDirectoryError(f"{sweep.plan} {problem}") from error
    for run in plan.runs:
        try:
            outcome = sweep_run_status(sweep, run.name)
            message = " · ".join(map(str, (sweep.ended(run.name) or {}).get("said", [])))
        except (ValueError, KeyError, TypeError) as error:
            outcome, message = "damaged", f"{sweep.outcome(run.name).name}: {error}"
        yield RunSource(run.name, sweep.path / run.name, run, outcome, message)


def _distinct_name(run: RunSource, among: Sequence[RunSource]) -> str:
    """Return the shortest trailing path that tells the run from others of the same folder name."""
    namesakes = [other.path.parts for other in among if other.name == run.name]
    parts, k = run.path.parts, 1
    while k < len(parts) and sum(other[-k:] == parts[-k:] for other in namesakes) > 1:
        k += 1
    return run.name if k == 1 else "/".join(parts[-k:])


@dataclass(frozen=True, slots=True)
class Transfer:
    """The final harness of a run with another model or on another task, tested once: a row outside of all arms."""

    name: str  # of its folder
    label: str  # task and model
    note: str  # what became of the adapter; empty where there was none
    task: str
    metric: str
    best: int
    final: Score | None
    initial: Score | None  # of the first harness; None where that is the best one
    gain: str  # the paired difference of the two, in words
    looks: int  # uses of the task's test set
    data: Mapping[str, Any]  # file name -> sha256 of the task's data

    @property
    def sentence(self) -> str:
        """The transfer in words, for captions."""
        parts = [f"the best harness on {self.label}: {self.final or 'not scored'}"]
        parts += [f"the first one {self.initial}"] if self.initial else []
        return ", ".join([*parts, *filter(None, (self.gain, self.note))])


def read_transfers(run: Path) -> list[Transfer]:
    """Return the transfers of a run that were tested, in the order of their folders' names."""
    names = [entry.name for entry in list_folder(run, "transfers") if entry.kind == "folder"]
    return [transfer for name in sorted(names) if (transfer := _read_transfer(run / "transfers" / name))]


def _read_transfer(folder: Path) -> Transfer | None:
    journal = JournalReader(folder / "journal.jsonl", strict=False)
    journal.refresh()
    opening, end = next(journal.of("began"), None), next(journal.of("ended"), None)
    tested = {result.generation: result for result in read_test_results(journal) if result.generation is not None}
    best = as_int(end.get("best")) if end else None
    if opening is None or best is None or best not in tested:
        return None
    first = next((n for n in tested if n != best), None)
    task = as_dict(read_config(folder).get("task"))
    metric = as_dict(task.get("metric"))
    gain = ""
    if first is not None:
        sides = [(read_test_outcomes(folder, journal, n), tested[n].score) for n in (best, first)]
        gain = _gain_in_words(*sides, higher_is_better=metric.get("higher_is_better") is not False)
    return Transfer(
        name=folder.name,
        label=one_line(as_text(opening.get("label")), 200),
        note=one_line(as_text(opening.get("note")), 300),
        task=as_text(task.get("name")),
        metric=as_text(metric.get("name")),
        best=best,
        final=tested[best].score,
        initial=None if first is None else tested[first].score,
        gain=gain,
        looks=len(tested),
        data=as_dict(as_dict(load_json(folder, "lock.json")).get("data")),
    )


_Tested = tuple[Sequence[Outcome], Score | None]


def _gain_in_words(new: _Tested, old: _Tested, *, higher_is_better: bool) -> str:
    (new_outcomes, final), (old_outcomes, initial) = new, old
    if final is None or initial is None or not new_outcomes or not old_outcomes:
        return ""
    difference = final.value - initial.value
    if not (is_question_mean(new_outcomes, final) and is_question_mean(old_outcomes, initial)):
        return f"{difference:+.3f}, not tested: the metric is no mean over questions"
    pair = paired_difference(new_outcomes, old_outcomes, higher_is_better)
    words = f"{difference:+.3f} ± {pair.standard_error:.3f} on the same questions"
    return f"{words} ({pair.won} won, {pair.lost} lost, p={pair.p_value:.2g})"


def is_question_mean(outcomes: Sequence[Outcome], score: Score) -> bool:
    """Check that the score is the mean of the outcomes: McNemar's test holds for means over questions only."""
    return bool(outcomes) and abs(mean_value(outcomes) - score.value) < 1e-9


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """A run in the report."""

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
    generations: tuple[GenerationRecord, ...] = ()
    best: int | None = None
    tests: Mapping[int, FinalTestResult] = field(default_factory=dict)  # by generation
    answers: Mapping[int, tuple[Outcome, ...]] = field(default_factory=dict)  # on test, where the file is unchanged
    usage: Json | None = None  # None without a summary
    seconds: float = 0.0  # of all finished steps, the tests included
    looks: int = 0  # uses of the test set
    config: Json = field(default_factory=dict)
    lock: Json = field(default_factory=dict)
    resumed: tuple[str, ...] = ()  # overrides of each resume
    arm: FinishedRun | None = None  # what a comparison of test answers needs
    not_compared: str = ""  # why there is no `arm`
    faults: tuple[str, ...] = ()  # contradictions in its files
    directions: tuple[Direction, ...] = ()  # notes by which a person steered it
    transfers: tuple[Transfer, ...] = ()  # tests of its best harness elsewhere
    swept: tuple[str, ...] = ()  # keys that its sweep set
    own: Mapping[str, Any] = field(default_factory=dict)  # columns of the user's own: name -> number, text or None

    @property
    def first(self) -> int | None:
        """The generation whose harness is the baseline."""
        return self.generations[0].n if self.generations else None

    def tested(self, n: int | None) -> Score | None:
        """Return the score of generation `n` on test, or None."""
        return self.tests[n].score if n is not None and n in self.tests else None

    @property
    def initial(self) -> Score | None:
        """The test score of the first harness."""
        return self.tested(self.first)

    @property
    def final(self) -> Score | None:
        """The test score of the best candidate."""
        return self.tested(self.best)

    @property
    def leaderboard(self) -> Sequence[str]:
        """Lines on an official grader's and a leaderboard's result for the best candidate; empty for tasks without."""
        return self.tests[self.best].leaderboard if self.best is not None and self.best in self.tests else ()


def read_run(source: RunSource) -> ReportedRun:
    """Read a run. Never raises for what is in the folder: problems are listed in `faults`, and the run is shown."""
    journal = JournalReader(source.path / "journal.jsonl", strict=False)
    journal.refresh()
    settings, summary = read_config(source.path), as_dict(load_json(source.path, "summary.json", MAX_FILE_BYTES))
    alive = lease_holder(source.path) is not None
    status = run_status(as_text(summary.get("status")) or None, summary.get("waits") is not None, alive)
    run = _planned_run(source, settings, summary, status)
    if not settings:
        return run
    metric = as_dict(summary.get("metric")) or as_dict(as_dict(settings.get("task")).get("metric"))
    rows = map(as_dict, as_list(summary.get("generations")))
    usages = {as_int(row.get("n")): as_dict(row.get("usage")) for row in rows}
    generations = [replace(g, usage=usages.get(g.n)) for g in read_generations(journal, alive)]
    best, results = find_incumbent(generations), read_test_results(journal)
    tested = {result.generation: result for result in results if result.generation is not None}
    transfers, lock = tuple(read_transfers(source.path)), as_dict(load_json(source.path, "lock.json"))
    arm, not_compared = _finished_run(source)
    faults = [journal.fault] if journal.fault else []
    # figures come from the journal: a finished run's summary that differs was edited
    claimed, score = {} if alive else as_dict(summary.get("best")), tested[best].score if best in tested else None
    if claimed and (claimed.get("generation"), Score.parse(claimed.get("test"))) != (best, score):
        faults.append("summary.json and journal.jsonl disagree on the best generation or its test score")
    return replace(
        run,
        why=source.sweep_message or _reason(run.status, journal, generations, summary),
        mode=earned_mode(run.mode, generations, source.path),
        metric=as_text(metric.get("name")),
        higher_is_better=metric.get("higher_is_better") is not False,
        selected_on_test=summary.get("selected_on_test") is True,
        generations=tuple(generations),
        best=best,
        tests=tested,
        answers={n: answers for n in tested if (answers := read_test_outcomes(source.path, journal, n))},
        usage=summary.get("usage") if isinstance(summary.get("usage"), dict) else None,
        seconds=round(sum(as_number(entry.get("seconds")) or 0.0 for _, entry in journal.done()), 1),
        looks=len(results)
        + sum(each.looks for each in transfers if each.task == run.task or each.data == lock.get("data")),
        lock=lock,
        resumed=tuple(" ".join(map(str, entry.get("overrides", []))) for entry in journal.of("resumed")),
        arm=arm,
        directions=read_directions(journal),
        transfers=transfers,
        not_compared=not_compared,
        faults=tuple(faults),
    )


_OWN_COLUMNS = ("task", "seed", "trainer", "experiment", "+experiment")  # of a run, or part of its arm


def _planned_run(source: RunSource, settings: Json, summary: Json, status: str) -> ReportedRun:
    """Return what is known before anything happened, from the run's config or the plan of its sweep."""
    task, trainer, planned = as_dict(settings.get("task")), as_dict(settings.get("trainer")), source.planned
    broken = source.sweep_status in ("crashed", "refused", "damaged", "missing")
    outcome = source.sweep_status if not settings or (status in ("cut", "running") and broken) else status
    seed = as_int(settings.get("seed"))
    overrides = dict(text.split("=", 1) for text in (planned.overrides if planned else ()) if "=" in text)
    planned_trainer = "none" if planned and planned.mode != SIA_WH else "auto"
    return ReportedRun(
        name=source.name,
        path=source.path,
        status=outcome or "missing",
        why=source.sweep_message or ("" if settings else "it never began, or its config.yaml cannot be read"),
        # the summary has the task's own name: for mlebench the competition's
        task=as_text(summary.get("task")) or as_text(task.get("name")) or (planned.task if planned else "?"),
        mode=as_text(trainer.get("mode")) or (planned.mode if planned else "?"),
        trainer=as_text(trainer.get("name")) or overrides.get("trainer") or planned_trainer,
        seed=seed if seed is not None else planned.seed if planned else None,
        swept=tuple(key.lstrip("+") for key in overrides if key not in _OWN_COLUMNS),
        config=settings,
        not_compared="it never began",
    )


def _finished_run(source: RunSource) -> tuple[FinishedRun | None, str]:
    try:
        arm = read_finished_runs([RunDir(source.path)])[0]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        return None, f"its configuration is not one of this version ({key}: {first['msg']})"
    except RunDirectoryError as error:
        return None, str(error).removeprefix(f"{source.path} ").removeprefix(f"{source.path}: ")
    return replace(arm, row=arm.row | {"run": source.name}), ""


def _reason(status: str, journal: JournalReader, generations: list[GenerationRecord], summary: Json) -> str:
    if untrained := as_text(summary.get("untrained")):
        return f"the weights were never trained: {untrained}"
    if status in ("completed", "running"):
        return next((f"stopped: {entry.get('reason')}" for entry in journal.of("stopped")), "")
    budget_reason = next((str(entry.get("reason")) for entry in journal.of("budget")), "")
    reasons = [f"generation {g.n}: {g.reason}" for g in generations if g.status in ("failed", "unscored")]
    cut = [f"in generation {g.n}: {g.step}" for g in generations if g.step]
    return budget_reason or next(iter([*cut, *reversed(reasons)]), "")
