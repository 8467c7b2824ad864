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
from sia_runner.selection.sampling import confusion_strata, stratified_order
from sia_runner.selection.scoring import Aggregate, score_with_interval
from sia_runner.system import bundled_folder
from sia_runner.tasks.collect import collect_submission, read_refusal
from sia_runner.tasks.data import data_file_hashes, prepared_folder
from sia_runner.tasks.near_duplicates import near_duplicate_groups
from sia_runner.tasks.process import parse_answer, run_worker, start_next_worker
from sia_runner.tasks.protocol import DatasetView, Fold, FoldPurpose, TaskError
from sia_runner.tasks.questions import QuestionTable, check_answers, load_questions
from sia_runner.tasks.splits import SplitPlan, shuffled
from sia_runner.tasks.verifiers.answers import auc
from sia_runner.tasks.verifiers.measures import MEASURES, scale_of
from sia_runner.tasks.views import check_files, file_cells, paths_in_view, write_view
from sia_runner.tasks.worker import load_verifier

# module -> what brings it; other modules are brought by their own name
_EXTRAS = {"chess": "sia-runner[chess]", "triton": "sia-runner[trimul]", "torch": "sia-runner[trimul]"}


def check_modules(task: str, modules: Sequence[str]) -> None:
    """Raise TaskError naming what to install. Modules are looked up, not imported, which takes no measurable time."""
    for module in modules:
        if not _is_installed(module):
            requirement = _EXTRAS.get(module, module)
            raise TaskError(f"task {task}: its verifier needs the module {module}; pip install '{requirement}'")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing, or the name is no module's
        return False


_MAX_CELL = 2000  # characters of a question's field shown in failures


class TableTask:
    """A task whose questions are rows of CSV files, read when first used (see sia_runner.tasks.protocol.Task)."""

    has_test = True

    def __init__(self, spec: task_config.TableTaskConfig, split_seed: int, cache: Path) -> None:
        self._spec, self._seed, self._cache = spec, split_seed, cache
        self.name = spec.name
        self.metric = spec.metric.name
        self.higher_is_better = spec.metric.higher_is_better
        self._home = Path(spec.dir).resolve() if spec.dir else bundled_folder("tasks") / (spec.folder or spec.name)
        self.folder = self._home  # where harnesses begin: a subclass may have them elsewhere
        self.reference = self.folder / "reference"
        self.entry = "target_agent.py"
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
        self,
        purpose: FoldPurpose,
        *,
        train_fraction: float = 1.0,
        questions: int | None = None,
        units: Sequence[str] = (),
    ) -> list[Fold]:
        """Return the folds that `purpose` takes. Raises TaskError where rollouts earn no reward."""
        if purpose == "rollout":
            if self._spec.metric.verifier == "auc":
                raise TaskError("metric.verifier=auc ranks all questions together and rewards none; use trainer=none")
            return [self._plan.rollout(units, self._near_duplicates)]
        return self._plan.rounds(purpose, train_fraction, questions)

    def dialogues(self) -> list[tuple[str, str]]:
        """Return (prompt, answer) for each question of train, to warm a policy on.

        Questions of rollout are left out: a policy must not know what it is rewarded for.
        """
        if self._spec.columns.answer_is_file:
            raise TaskError(f"task {self.name}: its answers are files, on which no policy can be warmed")
        return [self._dialogue(unit) for unit in self._plan.splits["train"]]

    def _dialogue(self, unit: str) -> tuple[str, str]:
        units, dialogue = self._units, self._spec.warmup_format
        if dialogue is None:
            return "\n".join(units.fields[unit]), units.answers[unit]
        row = dict(zip(units.columns, units.fields[unit], strict=True)) | {
            self._spec.columns.answer: units.answers[unit]
        }
        return dialogue.prompt.format(**row), dialogue.answer.format(**row)

    def lay_out(self, fold: Fold, dest: Path, salt: str) -> DatasetView:
        """Write the view of one fold to `dest`, and start the next verifier process."""
        start_next_worker()  # a harness is about to run; its answers need a verifier afterwards
        return write_view(self._spec, self._units, self._source, self.description, fold, dest, salt)

    def collect(self, work: Path, dest: Path) -> None:
        """Copy the submission out of `work`."""
        limits = self._spec.limits
        collect_submission(work, dest, self._spec.submission, limits.submission_mb, limits.submission_files)

    def verify(
        self,
        submission: Path,
        view_keys: Mapping[str, str],
        unanswered: OutcomeKind,
        sandbox_command: Sequence[str] = (),
    ) -> list[Outcome]:
        """Return one outcome per question of the view, or verifier_error for all of them."""
        request = self._request(submission, view_keys, sandbox_command)
        rows, failure = parse_answer(run_worker(request, self._spec.limits.verify))
        if failure:
            note = f"(the verifier failed: {failure})"
            return [Outcome(unit, OutcomeKind.VERIFIER_ERROR, 0.0, note) for unit in view_keys.values()]
        outcomes = [Outcome(view_keys[name], OutcomeKind(kind), value, text) for name, kind, value, text in rows]
        reason = read_refusal(submission)
        if reason:
            return [replace(o, kind=OutcomeKind.INVALID_FORMAT, prediction=f"({reason})") for o in outcomes]
        return [replace(o, kind=unanswered) if o.kind is OutcomeKind.NO_ANSWER else o for o in outcomes]

    @cached_property
    def aggregate(self) -> Aggregate | None:
        """The function from outcomes to the metric; None is the mean."""
        if self._spec.metric.verifier == "auc":
            return lambda outcomes: auc(outcomes, self._units.answers, self._choices[1])
        measure = MEASURES.get(self._spec.metric.verifier)
        if measure:
            return measure.aggregate and measure.aggregate(self._units.answers)
        if self._spec.metric.is_code:
            return getattr(load_verifier(self._spec.metric.verifier, self._home / "verifier.py"), "aggregate", None)
        return None

    def score(self, outcomes: Sequence[Outcome]) -> Score:
        """Aggregate outcomes, with a 95% interval."""
        return score_with_interval(outcomes, self.aggregate)

    def official_grade(self, submission: Path, view_keys: Mapping[str, str], score: Score) -> Mapping[str, Any] | None:
        """Return None: the only grader is our own, and there is no leaderboard."""
        del submission, view_keys, score
        return None

    def failures(self, outcomes: Sequence[Outcome], limit: int) -> list[dict[str, Any]]:
        """Return a seeded sample of outcomes of dev that were not fully correct.

        Frequent and rare kinds and confusions each have their part. Questions that are not dev are left out, whatever
        is passed.
        """
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
        fields = zip(self._units.columns, self._units.fields[outcome.unit], strict=True)
        return {
            "question": {name: cell if len(cell) <= _MAX_CELL else f"{cell[:_MAX_CELL]}…" for name, cell in fields},
            "prediction": outcome.prediction,
            "gold": "(a file)" if self._spec.columns.answer_is_file else self._units.answers[outcome.unit],
            "kind": outcome.kind.value,
        }

    def _request(self, submission: Path, keys: Mapping[str, str], sandbox_command: Sequence[str] = ()) -> bytes:
        spec, questions = self._spec, {}
        if spec.metric.is_code:
            questions = self._questions(keys)
        request = {
            "verifier": spec.metric.verifier,
            "module": str(self._home / "verifier.py"),
            "path": sys.path if is_custom(spec.metric.verifier) else [],  # where the user's own package is found
            "higher_is_better": self.higher_is_better,
            "submission": str(submission.resolve()),
            "file": spec.submission,
            "id": spec.columns.id,
            "columns": spec.answer_columns,
            "gold": {name: self._gold(unit) for name, unit in keys.items()},
            "questions": questions,
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

    def _gold(self, unit: str) -> str:
        gold = self._units.answers[unit]
        return str(self._source / gold) if self._spec.columns.answer_is_file else gold

    def _questions(self, keys: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Return id in the view -> the question's fields.

        A file's field is its path on this machine; COLUMN.view is its path in the view.
        """
        by_id, columns = {}, self._spec.columns
        view_paths = paths_in_view(columns, self._units, keys, {})
        for name, unit in keys.items():
            row = dict(zip(self._units.columns, self._units.fields[unit], strict=True))
            for column, path in file_cells(columns, self._units, unit):
                if column != columns.answer:
                    row |= {column: str(self._source / path), f"{column}.view": view_paths[column, path]}
            by_id[name] = row
        return by_id

    @cached_property
    def _scale(self) -> dict[str, Any]:
        """The scale of all gold answers, for verifiers that are a measure; empty for others."""
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
        """The groups of near-duplicates among labelled questions, cached beside the prepared data.

        They are needed for rollouts only.
        """
        texts = {unit: self._units.content(unit) for unit in self._units.labelled}
        return near_duplicate_groups(texts, self._cache / "tasks" / self.name)
