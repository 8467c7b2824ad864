"""The task under review, the findings about it, and the rows of its files: seen by who wants a score without work."""

import csv
import io
import json
import re
import time
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.selection.scoring import AggregateError, mean_value
from sia_runner.tasks.protocol import DatasetView, Fold
from sia_runner.tasks.splits import shuffled
from sia_runner.tasks.table import TableTask
from sia_runner.tasks.verifiers.answers import finite_number

NONSENSE = "zzqx nonsense"  # an answer that is right nowhere
_MAX_QUESTIONS = 400  # questions of one attack: enough to tell a hole from luck, few enough for a dozen verifications
AnswerRow = tuple[str, str]
SubmissionContent = bytes | dict[str, bytes] | None  # of a submission: its file; of a folder its files; nothing
AddNote = Callable[[str], None]
_MAX_READ_BYTES = 32 << 20  # bytes read of one file
_WIDE = 64  # cells of a list of scalars that still counts as one row
_SEPARATORS = re.compile(r"[\t,;:=|]+")
CellSet = frozenset[str]


@dataclass(frozen=True, slots=True)
class Verification:
    """The verification of one submission. `value` is None where the verifier failed; `error` holds its own words."""

    outcomes: Sequence[Outcome]
    value: float | None
    error: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ReferenceSubmission:
    """The submission of the reference harness, and the questions it was asked: view id -> question."""

    submission: Path
    keys: Mapping[str, str]


class TaskUnderReview:
    """A task under review. `folder` is scratch space, `command` runs submissions that are code in a sandbox."""

    def __init__(
        self, task: TableTask, folder: Path, sample: ReferenceSubmission | None = None, command: Sequence[str] = ()
    ) -> None:
        self.task, self.folder, self.sample, self._command = task, folder, sample, command
        self.spec, self.units, self.source = task._spec, task._units, task._source
        self.select_fold, self.test_fold = task.rounds("select")[0], task.rounds("test")[0]
        verifier, columns = self.spec.metric.verifier, self.spec.columns
        self.verifier_name = "verifier.py" if verifier == "python" else f"metric.verifier={verifier}"
        self.gold_files = columns.answer_is_file
        # a submission is a CSV of ids and answers, with text as gold; else only the task knows its form
        of_one_column = self.spec.answer_columns == [columns.answer]
        has_gold = not self.gold_files and self.spec.gold_answers
        self.is_table = self.spec.submission.endswith(".csv") and has_gold and of_one_column
        self._submissions = 0

    @cached_property
    def attack_view(self) -> DatasetView:
        """The view that the attacks answer: a seeded sample of dev + val, and all training data."""
        asked = shuffled(self.select_fold.questions, 0)[:_MAX_QUESTIONS]
        return self.task.lay_out(Fold(self.select_fold.train, asked), self.folder / "asked", "review")

    @cached_property
    def test_view(self) -> DatasetView:
        """The view of the final test, with the labels of everything else."""
        return self.task.lay_out(self.test_fold, self.folder / "last", "review")

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
        ordered = sorted(self.gold.values(), key=lambda text: (finite_number(text) or 0.0, text))
        return [*common, ordered[len(self.gold) // 2]]

    def submit(self, rows: Iterable[AnswerRow], *, others: Mapping[str, str] | None = None) -> Path:
        """Return a collected submission of these rows, and `others`: file name -> text."""
        text = io.StringIO()
        columns = self.spec.columns
        csv.writer(text, lineterminator="\n").writerows([(columns.id, columns.answer), *rows])
        return self.submit_bytes(text.getvalue().encode("utf-8", "surrogatepass"), others)

    def submit_bytes(self, data: SubmissionContent, others: Mapping[str, str] | None = None) -> Path:
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

    def verify(self, submission: Path, keys: Mapping[str, str] | None = None) -> Verification:
        """Verify a submission for `keys`: by default those of the attacks, or of the reference where it is no table."""
        start = time.perf_counter()
        questions = keys or (self.attack_view.keys if self.is_table or not self.sample else self.sample.keys)
        outcomes = self.task.verify(submission, questions, OutcomeKind.NO_ANSWER, self._command)
        seconds = time.perf_counter() - start
        error = next((o.prediction for o in outcomes if o.kind is OutcomeKind.VERIFIER_ERROR), None)
        if error is not None:
            return Verification(outcomes, None, error.strip("()").removeprefix("the verifier failed: "), seconds)
        try:
            return Verification(outcomes, (self.task.aggregate or mean_value)(outcomes), "", seconds)
        except AggregateError as failure:
            return Verification(outcomes, None, str(failure), seconds)

    def verify_rows(self, rows: Iterable[AnswerRow]) -> Verification:
        """Verify a submission of these rows."""
        return self.verify(self.submit(rows))

    def better(self, first: float, second: float) -> bool:
        """Return True when the score `first` is clearly better than `second`."""
        return first > second + 1e-9 if self.task.higher_is_better else first < second - 1e-9

    def fault(self, code: str, what: str, fix: str) -> "TaskFinding":
        """Return a finding about the verifier."""
        return TaskFinding(code, what, self.verifier_name, fix)


@dataclass(frozen=True, slots=True)
class TaskFinding:
    """A fault of a task. `code` is a short name for it, `where` a file or a key of the configuration."""

    code: str
    what: str
    where: str
    fix: str

    def __str__(self) -> str:
        return f"FINDING {self.code} · {self.what} · {self.where} · fix: {self.fix}"


@dataclass(slots=True)
class TaskReview:
    """The findings and the notes of a review."""

    findings: list[TaskFinding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, findings: Iterable[TaskFinding]) -> None:
        """Add the first finding of each kind at one place: one fault is reported once, however it shows."""
        reported = {(finding.code, finding.where) for finding in self.findings}
        for finding in findings:
            if (finding.code, finding.where) not in reported:
                reported.add((finding.code, finding.where))
                self.findings.append(finding)

    def lines(self) -> list[str]:
        """Return one line for each finding and each note."""
        return [*map(str, self.findings), *(f"noted: {note}" for note in self.notes)]


def comparable_cell(cell: object) -> str:
    """Return a cell in the form in which its spellings are compared."""
    return unicodedata.normalize("NFC", str(cell)).strip(" \t\r\n'\"()[]{}").casefold()


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file of a view by its header; empty where there is none."""
    csv.field_size_limit(1 << 30)
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def rows_of_file(path: Path) -> Iterator[CellSet]:
    """Yield rows of `path`, and of the members where it is a zip; none of other binary files."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist()[:1000]:
                with archive.open(member) as stream:
                    yield from rows_of_text(stream.read(_MAX_READ_BYTES), member.filename)
        return
    with path.open("rb") as stream:
        yield from rows_of_text(stream.read(_MAX_READ_BYTES), path.name)


def rows_of_text(data: bytes, name: str) -> Iterator[CellSet]:
    """Yield rows of a file's content, each as a set of cells, where a row has several. Binary files have none."""
    if b"\0" in data[:4096]:
        return
    text = data.decode("utf-8-sig", "replace")
    reader: Callable[[str], Iterable[Sequence[object]]] = _rows_of_lines
    if name.endswith((".json", ".jsonl", ".ndjson")):
        reader = _rows_of_json
    elif name.endswith((".csv", ".tsv")):
        reader = _rows_of_table
    for row in reader(text):
        cells = frozenset(comparable_cell(cell) for cell in row) - {""}
        if len(cells) > 1:
            yield cells


def _rows_of_table(text: str) -> Iterator[list[str]]:
    csv.field_size_limit(1 << 30)
    first_line = text.partition("\n")[0]
    delimiter = next((mark for mark in "\t;" if mark in first_line), ",")
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    except csv.Error:
        yield from _rows_of_lines(text)


def _rows_of_lines(text: str) -> Iterator[list[str]]:
    """Split lines at the usual separators, and at blanks: `17: B`, `17 B`. Of a long line, yield neighbouring pairs."""
    for line in text.splitlines():
        for cells in (_SEPARATORS.split(line), line.split()):
            yield from [cells] if len(cells) <= _WIDE else map(list, pairwise(cells))


def _rows_of_json(text: str) -> Iterator[Sequence[object]]:
    try:
        yield from _of_tree(json.loads(text))
    except (ValueError, RecursionError):
        for line in text.splitlines():
            try:
                yield from _of_tree(json.loads(line))
            except (ValueError, RecursionError):
                yield from _rows_of_lines(line)


def _of_tree(tree: Any) -> Iterator[Sequence[object]]:
    """Yield the scalars of each object, each key with its scalar, and short lists of scalars."""
    if isinstance(tree, dict):
        scalars = {key: value for key, value in tree.items() if not isinstance(value, dict | list)}
        yield list(scalars.values())
        yield from ([key, value] for key, value in scalars.items())
        for key, value in tree.items():
            if isinstance(value, dict):
                yield [key, *(inner for inner in value.values() if not isinstance(inner, dict | list))]
            yield from _of_tree(value)
    elif isinstance(tree, list):
        if len(tree) <= _WIDE and not any(isinstance(child, dict | list) for child in tree):
            yield tree
        for child in tree:
            yield from _of_tree(child)
