"""Native tasks: CSV data, seeded splits, and a verifier by name or in verifier.py."""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sia_runner.config import task as task_config
from sia_runner.config.base import is_custom
from sia_runner.records import Outcome, OutcomeKind, Score
from sia_runner.selection.scoring import Aggregate, checked_aggregate, score_with_interval
from sia_runner.system import bundled_folder
from sia_runner.tasks.collect import collect_submission, read_refusal
from sia_runner.tasks.data import data_file_hashes, prepared_folder
from sia_runner.tasks.process import run_worker, start_next_worker
from sia_runner.tasks.protocol import DatasetView, Fold, FoldPurpose, Task, TaskError, ViewKeys
from sia_runner.tasks.questions import QuestionTable, check_answers, load_questions
from sia_runner.tasks.splits import SplitPlan, confusion_strata, shuffled, stratified_order
from sia_runner.tasks.verifiers.answers import auc
from sia_runner.tasks.verifiers.measures import MEASURES, scale_of
from sia_runner.tasks.views import check_files, file_cells, paths_in_view, write_view
from sia_runner.tasks.worker import load_verifier

# module -> what brings it; other modules are brought by their own name
_EXTRAS = {
    "chess": "sia-runner[chess]",
    "inspect_ai": "sia-runner[inspect]",
    "torch": "sia-runner[trimul]",
    "triton": "sia-runner[trimul]",
}
_MAX_CELL = 2000  # characters of a question's field shown in failures


def check_modules(task: str, modules: Sequence[str]) -> None:
    """Raise TaskError naming what to install. Modules are looked up, not imported, which takes no measurable time."""
    for module in modules:
        try:
            installed = find_spec(module) is not None
        except (ImportError, ValueError):  # a parent package is missing, or the name is no module's
            installed = False
        if not installed:
            requirement = _EXTRAS.get(module, module)
            raise TaskError(f"task {task}: its verifier needs the module {module}; pip install '{requirement}'")


class TableTask(Task):
    """A task whose questions are rows of CSV files, read when first used (see sia_runner.tasks.protocol.Task)."""

    has_test = True
    entry = "target_agent.py"
    _start_seconds = 0.0  # of a question's own program in the sandbox, beyond limits.verify

    def __init__(self, spec: task_config.TableTaskConfig, split_seed: int, cache: Path) -> None:
        self._spec, self._seed, self._cache = spec, split_seed, cache
        self.name, self.metric, self.higher_is_better = spec.name, spec.metric.name, spec.metric.higher_is_better
        self._home = Path(spec.dir).resolve() if spec.dir else bundled_folder("tasks") / (spec.folder or spec.name)
        self.folder = self._home  # where harnesses begin: a subclass may have them elsewhere
        self.reference = self.folder / "reference"
        self.executes = spec.runs_submission
        if not (self._home / "task.md").is_file():
            raise TaskError(f"task {spec.name}: no task.md in {self._home} (task.dir)")
        if spec.metric.verifier == "python" and not (self._home / "verifier.py").is_file():
            raise TaskError(f"task {spec.name}: metric.verifier=python needs verifier.py in {self._home}")
        if is_custom(spec.metric.verifier):
            load_verifier(spec.metric.verifier, self._home)  # refuse one that cannot be loaded before anything runs
        check_modules(spec.name, spec.requires)

    @property
    def description(self) -> str:
        """The text of task.md, followed by the text that the data's script wrote about the data."""
        own = (self._home / "task.md").read_text(encoding="utf-8")
        about = self._spec.data.description_file
        return f"{own.rstrip()}\n\n{(self._source / about).read_text(encoding='utf-8')}" if about else own

    def prepare(self, say: Callable[[str], None]) -> None:
        """Prepare the data, and cut the splits so that faulty data is reported before a run starts."""
        self._source = prepared_folder(self.name, self._spec.data, self._home, self._cache, say)
        _ = self._plan  # faulty data is reported now, not in the middle of a run

    def data_hashes(self) -> dict[str, str]:
        """Return file name -> sha256 of all data that the scores rest on."""
        columns, units = self._spec.columns, self._units
        named = {path for unit in units.answers for _, path in file_cells(columns, units, unit)}
        return data_file_hashes(self._source, self._spec.data, named)

    def splits(self) -> Mapping[str, Sequence[str]]:
        """Return the questions of each split."""
        return self._plan.splits

    def rounds(
        self, purpose: FoldPurpose, train_fraction: float = 1, questions: int | None = None, units: Sequence[str] = ()
    ) -> list[Fold]:
        """Return the folds that `purpose` takes. Raises TaskError where rollouts earn no reward."""
        if purpose == "rollout":
            if self._spec.metric.verifier == "auc":
                raise TaskError("metric.verifier=auc ranks all questions together and rewards none; use trainer=none")
            return [self._plan.rollout(units, self._near_duplicates)]
        return self._plan.rounds(purpose, train_fraction, questions)

    def dialogues(self) -> list[tuple[str, str]]:
        """Return (prompt, answer) for each question of train; of none of rollout, for which a policy is rewarded."""
        if self._spec.columns.answer_is_file:
            raise TaskError(f"task {self.name}: its answers are files, on which no policy can be warmed")
        units, form, train = self._units, self._spec.warmup_format, self._plan.splits["train"]
        if form is None:
            return [("\n".join(units.fields[unit]), units.answers[unit]) for unit in train]
        rows = [units.row(unit) | {self._spec.columns.answer: units.answers[unit]} for unit in train]
        return [(form.prompt.format(**row), form.answer.format(**row)) for row in rows]

    def lay_out(self, fold: Fold, dest: Path, salt: str) -> DatasetView:
        """Write the view of one fold to `dest`, and start the next verifier process."""
        start_next_worker()  # a harness is about to run; its answers need a verifier afterwards
        return write_view(self._spec, self._units, self._source, self.description, fold, dest, salt)

    def collect(self, work: Path, dest: Path) -> None:
        """Copy the submission out of `work`."""
        limits = self._spec.limits
        collect_submission(work, dest, self._spec.submission, limits.submission_mb, limits.submission_files)

    def verify(
        self, submission: Path, keys: ViewKeys, unanswered: OutcomeKind, sandbox_command: Sequence[str] = ()
    ) -> list[Outcome]:
        """Return one outcome per question of the view, or verifier_error for all of them."""
        request = self._request(submission, keys, sandbox_command)
        rows, failure = run_worker(request, self._spec.limits.verify + self._start_seconds * len(keys))
        if failure:
            note = f"(the verifier failed: {failure})"
            return [Outcome(unit, OutcomeKind.VERIFIER_ERROR, 0.0, note) for unit in keys.values()]
        outcomes = [Outcome(keys[name], OutcomeKind(kind), value, text) for name, kind, value, text in rows]
        if reason := read_refusal(submission):
            return [replace(o, kind=OutcomeKind.INVALID_FORMAT, prediction=f"({reason})") for o in outcomes]
        return [replace(o, kind=unanswered) if o.kind is OutcomeKind.NO_ANSWER else o for o in outcomes]

    @cached_property
    def aggregate(self) -> Aggregate | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The function from outcomes to the metric; None is the mean."""
        if self._spec.metric.verifier == "auc":
            return lambda outcomes: auc(outcomes, self._units.answers, self._choices[1])
        if self._spec.metric.is_code:
            verifier = self._spec.metric.verifier
            own = getattr(load_verifier(verifier, self._home / "verifier.py"), "aggregate", None)
            return own and checked_aggregate(own, "verifier.py" if verifier == "python" else verifier)
        measure = MEASURES.get(self._spec.metric.verifier)
        return measure and measure.aggregate and measure.aggregate(self._units.answers)

    def score(self, outcomes: Sequence[Outcome]) -> Score:
        """Aggregate outcomes, with a 95% interval."""
        return score_with_interval(outcomes, self.aggregate)

    def failures(self, outcomes: Sequence[Outcome], limit: int) -> list[dict[str, Any]]:
        """Return a seeded sample of dev's outcomes that were not fully correct, frequent and rare confusions alike."""
        dev = set(self._plan.splits["dev"])
        failed = {o.unit: o for o in outcomes if o.unit in dev and self._failed(o)}
        described = [self._failure(failed[unit]) for unit in shuffled(list(failed), self._seed)]
        return stratified_order(described, confusion_strata(described))[:limit]

    def _failed(self, outcome: Outcome) -> bool:
        if self._spec.metric.verifier != "auc":
            return outcome.kind is not OutcomeKind.CORRECT
        truth = float(self._units.answers[outcome.unit] == self._choices[1])
        return abs(outcome.value - truth) > 0.5

    def _failure(self, outcome: Outcome) -> dict[str, Any]:
        fields = self._units.row(outcome.unit).items()
        return {
            "question": {name: cell if len(cell) <= _MAX_CELL else f"{cell[:_MAX_CELL]}…" for name, cell in fields},
            "prediction": outcome.prediction,
            "gold": "(a file)" if self._spec.columns.answer_is_file else self._units.answers[outcome.unit],
            "kind": outcome.kind.value,
        }

    def _request(self, submission: Path, keys: ViewKeys, sandbox_command: Sequence[str] = ()) -> bytes:
        spec = self._spec
        request = {
            "verifier": spec.metric.verifier,
            "module": str(self._home / "verifier.py"),
            "path": sys.path if is_custom(spec.metric.verifier) else [],  # where the user's own package is found
            "higher_is_better": self.higher_is_better,
            "submission": str(submission.resolve()),
            "file": spec.submission,
            "id": spec.columns.id,
            "columns": spec.answer_columns,
            "gold": self._verifier_data(keys),
            "questions": self._questions(keys) if spec.metric.is_code else {},
            "choices": self._choices,
            "tolerance": spec.metric.tolerance,
            "scale": self._scale,
            "most_rows": 20 * len(keys) + 10_000,
            "most_bytes": spec.limits.submission_mb << 20,
            "cpu_seconds": math.ceil(spec.limits.verify) + 1,
            "memory": None if spec.limits.verify_mb is None else spec.limits.verify_mb << 20,
            "sandbox_command": list(sandbox_command),
        }
        return json.dumps(request).encode()

    def _verifier_data(self, keys: ViewKeys) -> dict[str, str]:
        """Return id in the view -> what the verifier judges by: the gold answer, or the path of its file."""
        gold = {name: self._units.answers[unit] for name, unit in keys.items()}
        if self._spec.columns.answer_is_file:
            return {name: str(self._source / path) for name, path in gold.items()}
        return gold

    def _questions(self, keys: ViewKeys) -> dict[str, dict[str, str]]:
        """Return id in the view -> the question's fields; of a file its path here, and as COLUMN.view in the view."""
        by_id, columns = {}, self._spec.columns
        view_paths = paths_in_view(columns, self._units, keys, {})
        for name, unit in keys.items():
            by_id[name] = self._units.row(unit)
            for column, path in file_cells(columns, self._units, unit):
                if column != columns.answer:
                    by_id[name] |= {column: str(self._source / path), f"{column}.view": view_paths[column, path]}
        return by_id

    @cached_property
    def _scale(self) -> dict[str, Any]:
        measure = MEASURES.get(self._spec.metric.verifier)
        return asdict(scale_of(measure, self._units.answers.values(), self._choices)) if measure else {}

    @property
    def _choices(self) -> list[str]:
        return self._spec.metric.choices or []

    @cached_property
    def _source(self) -> Path:
        return prepared_folder(self.name, self._spec.data, self._home, self._cache, lambda _: None)

    @cached_property
    def _units(self) -> QuestionTable:
        units = load_questions(self._spec, self._source)
        check_answers(self._spec.metric, units)
        check_files(self._spec.columns, units, self._source)
        return units

    @cached_property
    def _plan(self) -> SplitPlan:
        spec = self._spec
        return SplitPlan(self._units, spec.splits, spec.gate, grouped=spec.columns.grouped_ids, seed=self._seed)

    @cached_property
    def _near_duplicates(self) -> list[list[str]]:
        from sia_runner.tasks.near_duplicates import near_duplicate_groups  # with numpy, and for rollouts only

        texts = {unit: self._units.content(unit) for unit in self._units.labelled}
        return near_duplicate_groups(texts, self._cache / "tasks" / self.name)
