"""A native task: CSV data, seeded splits, a verifier by name or in verifier.py."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sia_runner import task_config
from sia_runner.records import Outcome, OutcomeKind, Score
from sia_runner.resources import bundled
from sia_runner.sampling import by_confusion, representative
from sia_runner.scoring import Aggregate, interval
from sia_runner.tasks import views
from sia_runner.tasks.collect import collect_submission, refusal
from sia_runner.tasks.near import near_groups
from sia_runner.tasks.plan import Plan
from sia_runner.tasks.prepare import hashes, ready
from sia_runner.tasks.process import judged, run_worker, warm_worker
from sia_runner.tasks.protocol import Purpose, Round, TaskError, View
from sia_runner.tasks.requires import check_modules
from sia_runner.tasks.splits import shuffled
from sia_runner.tasks.units import Units, check_answers, load_units
from sia_runner.tasks.verifiers.auc import auc
from sia_runner.tasks.worker import load_module

_CELL = 2000  # characters of a question's field shown in failures


class TableTask:
    """See sia_runner.tasks.protocol.Task. Nothing is read before it is needed."""

    has_test = True

    def __init__(self, spec: task_config.TableTask, split_seed: int, cache: Path) -> None:
        self._spec, self._seed, self._cache = spec, split_seed, cache
        self.name = spec.name
        self.metric = spec.metric.name
        self.higher_is_better = spec.metric.higher_is_better
        self.folder = Path(spec.dir).resolve() if spec.dir else bundled("tasks") / spec.name
        self.reference = self.folder / "reference"
        self.entry = "target_agent.py"
        if not (self.folder / "task.md").is_file():
            raise TaskError(f"task {spec.name}: no task.md in {self.folder} (task.dir)")
        if spec.metric.verifier == "python" and not (self.folder / "verifier.py").is_file():
            raise TaskError(f"task {spec.name}: metric.verifier=python needs verifier.py in {self.folder}")
        check_modules(spec.name, spec.requires)

    @property
    def description(self) -> str:
        return (self.folder / "task.md").read_text(encoding="utf-8")

    def prepare(self, say: Callable[[str], None]) -> None:
        self._source = ready(self.name, self._spec.data, self.folder, self._cache, say)
        _ = self._plan  # what is wrong with the data is told now, not in the middle of a run

    def data_hashes(self) -> dict[str, str]:
        return hashes(self._source, self._spec.data)

    def splits(self) -> Mapping[str, Sequence[str]]:
        return self._plan.splits

    def rounds(
        self,
        purpose: Purpose,
        *,
        train_fraction: float = 1.0,
        questions: int | None = None,
        units: Sequence[str] = (),
    ) -> list[Round]:
        if purpose == "rollout":
            if self._spec.metric.verifier == "auc":
                raise TaskError("metric.verifier=auc ranks all questions together and rewards none; use trainer=none")
            return [self._plan.rollout(units, self._near)]
        return self._plan.rounds(purpose, train_fraction, questions)

    def dialogues(self) -> list[tuple[str, str]]:
        """Questions of train with their answers, as a policy is warmed on them. Nothing of rollout: what rewards must
        not be known."""
        return [self._say(unit) for unit in self._plan.splits["train"]]

    def _say(self, unit: str) -> tuple[str, str]:
        units, said = self._units, self._spec.said
        if said is None:
            return "\n".join(units.fields[unit]), units.answers[unit]
        row = dict(zip(units.columns, units.fields[unit], strict=True)) | {
            self._spec.columns.answer: units.answers[unit]
        }
        return said.prompt.format(**row), said.answer.format(**row)

    def lay_out(self, round_: Round, dest: Path, salt: str) -> View:
        warm_worker()  # a harness is about to run; its answers will be waiting for a judge
        return views.lay_out(self._spec, self._units, self._source, self.description, round_, dest, salt)

    def collect(self, work: Path, dest: Path) -> None:
        collect_submission(work, dest, self._spec.submission, self._spec.limits.submission_mb)

    def verify(self, submission: Path, view_keys: Mapping[str, str], unanswered: OutcomeKind) -> list[Outcome]:
        rows, failure = judged(run_worker(self._request(submission, view_keys), self._spec.limits.verify))
        if failure:
            note = f"(the verifier failed: {failure})"
            return [Outcome(unit, OutcomeKind.VERIFIER_ERROR, 0.0, note) for unit in view_keys.values()]
        outcomes = [Outcome(view_keys[name], OutcomeKind(kind), value, text) for name, kind, value, text in rows]
        refused = refusal(submission)
        if refused:
            return [replace(o, kind=OutcomeKind.INVALID_FORMAT, prediction=f"({refused})") for o in outcomes]
        return [replace(o, kind=unanswered) if o.kind is OutcomeKind.NO_ANSWER else o for o in outcomes]

    @cached_property
    def aggregate(self) -> Aggregate | None:
        if self._spec.metric.verifier == "auc":
            return lambda outcomes: auc(outcomes, self._units.answers, self._choices[1])
        if self._spec.metric.verifier == "python":
            return getattr(load_module(self.folder / "verifier.py"), "aggregate", None)
        return None

    def score(self, outcomes: Sequence[Outcome]) -> Score:
        return interval(outcomes, self.aggregate)

    def failures(self, outcomes: Sequence[Outcome], limit: int) -> list[dict[str, Any]]:
        """A seeded sample of what went wrong, frequent and rare kinds and confusions each with their part; units that
        are not dev are left out, whatever is asked for."""
        dev = set(self._plan.splits["dev"])
        failed = {o.unit: o for o in outcomes if o.unit in dev and self._failed(o)}
        shown = [self._failure(failed[unit]) for unit in shuffled(list(failed), self._seed)]
        return representative(shown, by_confusion(shown))[:limit]

    def _failed(self, outcome: Outcome) -> bool:
        if self._spec.metric.verifier != "auc":
            return outcome.kind is not OutcomeKind.CORRECT
        truth = float(self._units.answers[outcome.unit] == self._choices[1])
        return abs(outcome.value - truth) > 0.5

    def _failure(self, outcome: Outcome) -> dict[str, Any]:
        fields = zip(self._units.columns, self._units.fields[outcome.unit], strict=True)
        return {
            "question": {name: cell if len(cell) <= _CELL else f"{cell[:_CELL]}…" for name, cell in fields},
            "prediction": outcome.prediction,
            "gold": self._units.answers[outcome.unit],
            "kind": outcome.kind.value,
        }

    def _request(self, submission: Path, keys: Mapping[str, str]) -> bytes:
        spec, questions = self._spec, {}
        if spec.metric.verifier == "python":
            questions = {name: self._question(unit) for name, unit in keys.items()}
        request = {
            "verifier": spec.metric.verifier,
            "module": str(self.folder / "verifier.py"),
            "higher_is_better": self.higher_is_better,
            "submission": str(submission.resolve()),
            "file": spec.submission,
            "id": spec.columns.id,
            "answer": spec.columns.answer,
            "gold": {name: self._units.answers[unit] for name, unit in keys.items()},
            "questions": questions,
            "choices": self._choices,
            "tolerance": spec.metric.tolerance,
            "most_rows": 20 * len(keys) + 10_000,
            "most_bytes": spec.limits.submission_mb << 20,
            "cpu_seconds": math.ceil(spec.limits.verify) + 1,
        }
        return json.dumps(request).encode()

    def _question(self, unit: str) -> dict[str, str]:
        return dict(zip(self._units.columns, self._units.fields[unit], strict=True))

    @property
    def _choices(self) -> list[str]:
        return self._spec.metric.choices or []

    @cached_property
    def _source(self) -> Path:
        return ready(self.name, self._spec.data, self.folder, self._cache, lambda _: None)

    @cached_property
    def _units(self) -> Units:
        units = load_units(self._spec, self._source)
        check_answers(self._spec.metric, units)
        return units

    @cached_property
    def _plan(self) -> Plan:
        spec = self._spec
        return Plan(self._units, spec.splits, spec.gate, grouped=spec.columns.grouped_ids, seed=self._seed)

    @cached_property
    def _near(self) -> list[list[str]]:
        """Labelled questions that say nearly the same; needed for rollouts only, and kept beside the prepared data."""
        texts = {unit: self._units.content(unit) for unit in self._units.labelled}
        return near_groups(texts, self._cache / "tasks" / self.name)
