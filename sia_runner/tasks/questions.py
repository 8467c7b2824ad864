"""The questions of a table task, read from its CSV files, which are trusted: a mistake in them gets one clear line."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sia_runner.config.task import Metric, TableTaskConfig
from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.verifiers.measures import gold_fault


class CsvRows(NamedTuple):
    """The rows of a CSV file by id; cells are in the order of `columns`. The id column is left out of both."""

    columns: list[str]
    by_id: Mapping[str, list[str]]


def read_rows(path: Path, id_column: str) -> CsvRows:
    """Read a CSV file in UTF-8 whose column `id_column` is unique. Raises TaskError."""
    csv.field_size_limit(1 << 30)  # one case of a legal task exceeds the default of 128 KiB
    try:
        text = path.read_bytes().decode("utf-8-sig")  # at once: the codec's incremental decoder is several times slower
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"{path}: cannot be read as CSV in UTF-8: {error}") from error
    header = lines[0] if lines else []
    if header.count(id_column) != 1:
        raise TaskError(f"{path}: needs one column {id_column!r} (columns.id); it has: {', '.join(header) or 'none'}")
    if repeated := next((name for name, count in Counter(header).items() if count > 1), None):
        raise TaskError(f"{path}: two columns are called {repeated!r}: the second hides the first; rename one")
    id_index = header.index(id_column)
    by_id: dict[str, list[str]] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) != len(header):
            raise TaskError(f"{path}: row {number} has {len(line)} cells, the header has {len(header)}")
        if line[id_index] in by_id:
            raise TaskError(f"{path}: row {number} repeats the id {line[id_index]!r}")
        by_id[line[id_index]] = line[:id_index] + line[id_index + 1 :]
    return CsvRows(header[:id_index] + header[id_index + 1 :], by_id)


@dataclass(frozen=True, slots=True)
class QuestionTable:
    """The labelled and the test questions of a table task; a test row's name is ``test:<id>``: ids may recur."""

    columns: Sequence[str]
    fields: Mapping[str, Sequence[str]]  # in the order of `columns`: those of the question, without id and answer
    answers: Mapping[str, str]
    labelled: Sequence[str]
    test: Sequence[str]  # empty where test is cut from `labelled`

    def row(self, unit: str) -> dict[str, str]:
        """Return column -> cell of the question."""
        return dict(zip(self.columns, self.fields[unit], strict=True))

    def content(self, unit: str) -> str:
        """Return the question's fields as one text, equal for two questions that read the same."""
        return "\x1f".join(self.fields[unit])


def group_of_id(unit: str) -> str:
    """Return the group in a grouped id: 0013 of 0013_02. A group keeps its name over labelled and test rows."""
    return unit.removeprefix("test:").partition("_")[0]


def load_questions(spec: TableTaskConfig, source: Path) -> QuestionTable:
    """Read the task's tables from `source`. Raises TaskError where columns or ids do not fit together."""
    rows = read_rows(source / spec.data.labelled, spec.columns.id)
    fields, answers = _take_answers(rows, spec.columns.answer, source / spec.data.labelled)
    columns = [name for name in rows.columns if name != spec.columns.answer]
    labelled = list(fields)
    if spec.data.test is None or spec.data.answers is None:
        return QuestionTable(columns, fields, answers, labelled, [])
    test_path, answers_path = source / spec.data.test, source / spec.data.answers
    questions = read_rows(test_path, spec.columns.id)
    if questions.columns != columns:
        raise TaskError(
            f"{test_path}: its columns must be those of {spec.data.labelled} without "
            f"{spec.columns.answer!r}: {', '.join(columns)}; it has: {', '.join(questions.columns)}"
        )
    _, gold = _take_answers(read_rows(answers_path, spec.columns.id), spec.columns.answer, answers_path)
    if gold.keys() != questions.by_id.keys():
        raise TaskError(f"{answers_path}: its ids must be exactly those of {spec.data.test}")
    fields |= {f"test:{unit}": cells for unit, cells in questions.by_id.items()}
    answers |= {f"test:{unit}": answer for unit, answer in gold.items()}
    return QuestionTable(columns, fields, answers, labelled, [f"test:{unit}" for unit in questions.by_id])


def _take_answers(rows: CsvRows, column: str, path: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    if rows.columns.count(column) != 1:
        raise TaskError(f"{path}: needs one column {column!r} (columns.answer); it has: {', '.join(rows.columns)}")
    answer_index = rows.columns.index(column)
    fields: dict[str, list[str]] = {}
    answers: dict[str, str] = {}
    for unit, cells in rows.by_id.items():
        if not cells[answer_index].strip():
            raise TaskError(f"{path}: id {unit!r} has no answer in column {column!r}")
        answers[unit] = cells[answer_index]
        fields[unit] = cells[:answer_index] + cells[answer_index + 1 :]
    return fields, answers


def check_answers(metric: Metric, units: QuestionTable) -> None:
    """Raise TaskError where a gold answer is one that the verifier cannot compare with."""
    for unit, gold in units.answers.items():
        if problem := gold_fault(metric.verifier, gold):
            raise TaskError(f"metric.verifier={metric.verifier}: the answer of {unit} {problem}: {gold[:50]!r}")
        if metric.choices is not None and gold not in metric.choices:
            raise TaskError(f"the answer of {unit} is {gold[:50]!r}; metric.choices has {', '.join(metric.choices)}")
