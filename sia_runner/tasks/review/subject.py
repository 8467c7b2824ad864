"""The task under review: the views of it that a harness would get, and its verifier's outcomes for a submission."""

import csv
import io
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sia_runner.ground.scoring import mean
from sia_runner.records import Outcome, OutcomeKind
from sia_runner.tasks.protocol import Round, View
from sia_runner.tasks.splits import shuffled
from sia_runner.tasks.table import TableTask

NONSENSE = "zzqx nonsense"  # an answer that is right nowhere
MAX_QUESTIONS = 400  # questions of one attack: enough to tell a hole from luck, few enough for a dozen verifications
Row = tuple[str, str]
Content = bytes | dict[str, bytes] | None  # of a submission: its file; of a folder its files; nothing


@dataclass(frozen=True, slots=True)
class Judged:
    """The verification of one submission. `value` is None where the verifier failed; `error` holds its own words."""

    outcomes: Sequence[Outcome]
    value: float | None
    error: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """The submission of the reference harness, and the questions it was asked: view id -> question."""

    submission: Path
    keys: Mapping[str, str]


class Subject:
    """A task under review.

    `folder` is scratch space, `sandbox_command` runs submissions that are code (see Task.verify). No program runs here
    except the task's own verifier, in its own process as always.
    """

    def __init__(
        self, task: TableTask, folder: Path, sample: Sample | None = None, sandbox_command: Sequence[str] = ()
    ) -> None:
        self.task, self.folder, self.sample, self.sandbox_command = task, folder, sample, sandbox_command
        self.spec, self.units, self.source = task._spec, task._units, task._source
        self._submissions = 0

    @cached_property
    def select_fold(self) -> Round:
        """The first fold by which candidates are selected."""
        return self.task.rounds("select")[0]

    @cached_property
    def test_fold(self) -> Round:
        """The fold of the final test."""
        return self.task.rounds("test")[0]

    @cached_property
    def attack_view(self) -> View:
        """The view that the attacks answer: a seeded sample of dev + val, and all training data."""
        return self.view(
            Round(self.select_fold.train, shuffled(self.select_fold.questions, 0)[:MAX_QUESTIONS]), "asked"
        )

    @cached_property
    def test_view(self) -> View:
        """The view of the final test, with the labels of everything else."""
        return self.view(self.test_fold, "last")

    def view(self, fold: Round, name: str) -> View:
        """Write the view of a fold and return it."""
        return self.task.lay_out(fold, self.folder / name, "review")

    @property
    def verifier_name(self) -> str:
        """The name of the verifier, as findings show it."""
        name = self.spec.metric.verifier
        return "verifier.py" if name == "python" else f"metric.verifier={name}"

    @property
    def is_table(self) -> bool:
        """True where a submission is a CSV of ids and answers, with text as gold.

        Otherwise only the task knows its form.
        """
        columns = self.spec.columns
        return (
            self.spec.submission.endswith(".csv")
            and not self.gold_files
            and self.spec.answer_columns == [columns.answer]
        )

    @property
    def gold_files(self) -> bool:
        """True where gold answers are files."""
        return self.spec.columns.answer_is_file

    @cached_property
    def gold(self) -> dict[str, str]:
        """The submission of a perfect harness: view id -> answer."""
        answers = {name: self.units.answers[unit] for name, unit in self.attack_view.keys.items()}
        if self.spec.metric.verifier == "auc":
            positive = (self.spec.metric.choices or ["", ""])[1]
            return {name: str(int(answer == positive)) for name, answer in answers.items()}
        return answers

    @cached_property
    def constants(self) -> list[str]:
        """The answers worth giving to every question: the commonest ones, and the middle one of numbers."""
        common = [answer for answer, _ in Counter(self.gold.values()).most_common(3)]
        return [*common, sorted(self.gold.values(), key=_number)[len(self.gold) // 2]]

    def submit(self, rows: Iterable[Row], *, others: Mapping[str, str] | None = None) -> Path:
        """Return a collected submission of these rows, and `others`: file name -> text."""
        text = io.StringIO()
        columns = self.spec.columns
        csv.writer(text, lineterminator="\n").writerows([(columns.id, columns.answer), *rows])
        return self.submit_bytes(text.getvalue().encode("utf-8", "surrogatepass"), others)

    def submit_bytes(self, data: Content, others: Mapping[str, str] | None = None) -> Path:
        """Write files into a work folder and collect them from there, as after a run."""
        self._submissions += 1
        work = self.folder / f"work_{self._submissions}"
        work.mkdir()
        files = {self.spec.submission: data} if isinstance(data, bytes) else data or {}
        for name, content in (files | {name: text.encode() for name, text in (others or {}).items()}).items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content)
        self.task.collect(work, self.folder / f"submission_{self._submissions}")
        return self.folder / f"submission_{self._submissions}"

    def verify(self, submission: Path, keys: Mapping[str, str] | None = None) -> Judged:
        """Verify a submission for `keys`.

        By default these are the questions of the attacks where submissions are tables, else those the reference harness
        was asked.
        """
        start = time.perf_counter()
        questions = keys or (self.attack_view.keys if self.is_table or not self.sample else self.sample.keys)
        outcomes = self.task.verify(submission, questions, OutcomeKind.NO_ANSWER, self.sandbox_command)
        seconds = time.perf_counter() - start
        error = next((o.prediction for o in outcomes if o.kind is OutcomeKind.VERIFIER_ERROR), None)
        if error is not None:
            return Judged(outcomes, None, error.strip("()").removeprefix("the verifier failed: "), seconds)
        return Judged(outcomes, (self.task.aggregate or mean)(outcomes), "", seconds)

    def verify_rows(self, rows: Iterable[Row]) -> Judged:
        """Verify a submission of these rows."""
        return self.verify(self.submit(rows))

    def better(self, first: float, second: float, margin: float = 1e-9) -> bool:
        """Return True when the score `first` is better than `second` by more than `margin`."""
        return first > second + margin if self.task.higher_is_better else first < second - margin


def _number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return 0.0, text
