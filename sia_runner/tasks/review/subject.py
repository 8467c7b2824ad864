"""The task under review: what a harness would see of it, and what its judge says to a submission."""

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

MOST = 400  # questions of one attack: enough to tell a hole from luck, few enough for a dozen verifications
Row = tuple[str, str]
Content = bytes | dict[str, bytes] | None  # of a submission: its file; of a folder its files; nothing


@dataclass(frozen=True, slots=True)
class Judged:
    """`value` None: the judge failed, and `error` says how in its own words."""

    outcomes: Sequence[Outcome]
    value: float | None
    error: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What the reference harness handed in, and the questions that it was asked: view id -> unit."""

    submission: Path
    keys: Mapping[str, str]


class Subject:
    """`folder` is scratch space, `chamber` where submissions that are code are run (see Task.verify). Nothing is run
    here but the task's own judge, in its own process as always."""

    def __init__(
        self, task: TableTask, folder: Path, sample: Sample | None = None, chamber: Sequence[str] = ()
    ) -> None:
        self.task, self.folder, self.sample, self.chamber = task, folder, sample, chamber
        self.spec, self.units, self.source = task._spec, task._units, task._source
        self._submissions = 0

    @cached_property
    def select(self) -> Round:
        return self.task.rounds("select")[0]

    @cached_property
    def test(self) -> Round:
        return self.task.rounds("test")[0]

    @cached_property
    def asked(self) -> View:
        """What the attacks answer: a seeded sample of dev + val, and all that the harness may learn from."""
        return self.view(Round(self.select.train, shuffled(self.select.questions, 0)[:MOST]), "asked")

    @cached_property
    def last(self) -> View:
        """The view of the final test, with the labels of everything else."""
        return self.view(self.test, "last")

    def view(self, round_: Round, name: str) -> View:
        return self.task.lay_out(round_, self.folder / name, "review")

    @property
    def judge_name(self) -> str:
        name = self.spec.metric.verifier
        return "verifier.py" if name == "python" else f"metric.verifier={name}"

    @property
    def is_table(self) -> bool:
        """Is a submission a CSV of ids and answers, with text as gold? Otherwise only the task knows its form."""
        columns = self.spec.columns
        return (
            self.spec.submission.endswith(".csv")
            and not self.gold_files
            and self.spec.answer_columns == [columns.answer]
        )

    @property
    def gold_files(self) -> bool:
        return self.spec.columns.answer_is_file

    @cached_property
    def gold(self) -> dict[str, str]:
        """View id -> what a perfect harness would write."""
        answers = {name: self.units.answers[unit] for name, unit in self.asked.keys.items()}
        if self.spec.metric.verifier == "auc":
            positive = (self.spec.metric.choices or ["", ""])[1]
            return {name: str(int(answer == positive)) for name, answer in answers.items()}
        return answers

    @cached_property
    def constants(self) -> list[str]:
        """Answers worth giving to every question: the commonest ones, and the middle one of numbers."""
        common = [answer for answer, _ in Counter(self.gold.values()).most_common(3)]
        return [*common, sorted(self.gold.values(), key=_number)[len(self.gold) // 2]]

    def submit(self, rows: Iterable[Row], *, others: Mapping[str, str] | None = None) -> Path:
        """A collected submission of these rows, and `others`: file name -> text."""
        text = io.StringIO()
        columns = self.spec.columns
        csv.writer(text, lineterminator="\n").writerows([(columns.id, columns.answer), *rows])
        return self.submit_bytes(text.getvalue().encode("utf-8", "surrogatepass"), others)

    def submit_bytes(self, data: Content, others: Mapping[str, str] | None = None) -> Path:
        """Laid into a work folder and collected from there, as after a run."""
        self._submissions += 1
        work = self.folder / f"work_{self._submissions}"
        work.mkdir()
        files = {self.spec.submission: data} if isinstance(data, bytes) else data or {}
        for name, content in (files | {name: text.encode() for name, text in (others or {}).items()}).items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(content)
        self.task.collect(work, self.folder / f"submission_{self._submissions}")
        return self.folder / f"submission_{self._submissions}"

    def judge(self, submission: Path, keys: Mapping[str, str] | None = None) -> Judged:
        """`keys` None: of what is asked, where submissions are tables; else of what the reference harness was asked."""
        began = time.perf_counter()
        asked = keys or (self.asked.keys if self.is_table or not self.sample else self.sample.keys)
        outcomes = self.task.verify(submission, asked, OutcomeKind.NO_ANSWER, self.chamber)
        seconds = time.perf_counter() - began
        failed = next((o.prediction for o in outcomes if o.kind is OutcomeKind.VERIFIER_ERROR), None)
        if failed is not None:
            return Judged(outcomes, None, failed.strip("()").removeprefix("the verifier failed: "), seconds)
        return Judged(outcomes, (self.task.aggregate or mean)(outcomes), "", seconds)

    def answered(self, rows: Iterable[Row]) -> Judged:
        return self.judge(self.submit(rows))

    def better(self, one: float, other: float, by: float = 1e-9) -> bool:
        return one > other + by if self.task.higher_is_better else one < other - by


def _number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return 0.0, text
