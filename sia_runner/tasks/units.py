"""The questions of a table task in memory, each a row with its fields and its gold answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sia_runner.schema.task import Metric, TableTask
from sia_runner.tasks.protocol import TaskError
from sia_runner.tasks.rows import Rows, read_rows
from sia_runner.tasks.verifiers.common import finite
from sia_runner.tasks.verifiers.measures import MEASURES, fault


@dataclass(frozen=True, slots=True)
class Units:
    """The labelled and the test questions of a table task.

    `fields` are the question's columns without id and answer. A test row's name is ``test:<id>``: a task may number its
    labelled and its test rows alike.
    """

    columns: Sequence[str]
    fields: Mapping[str, Sequence[str]]
    answers: Mapping[str, str]
    labelled: Sequence[str]
    test: Sequence[str]  # empty where test is cut from `labelled`

    def content(self, unit: str) -> str:
        """Return the question's fields as one text, equal for two questions that read the same."""
        return "\x1f".join(self.fields[unit])


def group_of(unit: str) -> str:
    """Return the group in a grouped id: 0013 of 0013_02. A group keeps its name over labelled and test rows."""
    return unit.removeprefix("test:").partition("_")[0]


def load_units(spec: TableTask, source: Path) -> Units:
    """Read the task's tables from `source`. Raises TaskError where columns or ids do not fit together."""
    rows = read_rows(source / spec.data.labelled, spec.columns.id)
    fields, answers = _take_answers(rows, spec.columns.answer, source / spec.data.labelled)
    columns = [name for name in rows.columns if name != spec.columns.answer]
    labelled = list(fields)
    if spec.data.test is None or spec.data.answers is None:
        return Units(columns, fields, answers, labelled, [])
    questions = read_rows(source / spec.data.test, spec.columns.id)
    if questions.columns != columns:
        raise TaskError(
            f"{source / spec.data.test}: its columns must be those of {spec.data.labelled} without "
            f"{spec.columns.answer!r}: {', '.join(columns)}; it has: {', '.join(questions.columns)}"
        )
    answer_rows = read_rows(source / spec.data.answers, spec.columns.id)
    _, gold = _take_answers(answer_rows, spec.columns.answer, source / spec.data.answers)
    if gold.keys() != questions.by_id.keys():
        raise TaskError(f"{source / spec.data.answers}: its ids must be exactly those of {spec.data.test}")
    fields |= {f"test:{unit}": cells for unit, cells in questions.by_id.items()}
    answers |= {f"test:{unit}": answer for unit, answer in gold.items()}
    return Units(columns, fields, answers, labelled, [f"test:{unit}" for unit in questions.by_id])


def _take_answers(rows: Rows, column: str, path: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
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


def check_answers(metric: Metric, units: Units) -> None:
    """Raise TaskError where a gold answer is one that the verifier cannot compare with."""
    for unit, gold in units.answers.items():
        if metric.verifier == "numeric" and finite(gold) is None:
            raise TaskError(f"metric.verifier=numeric: the answer of {unit} is no finite number: {gold[:50]!r}")
        if metric.verifier in MEASURES and (problem := fault(metric.verifier, gold)):
            raise TaskError(f"metric.verifier={metric.verifier}: the answer of {unit} {problem}: {gold[:50]!r}")
        if metric.choices is not None and gold not in metric.choices:
            raise TaskError(f"the answer of {unit} is {gold[:50]!r}; metric.choices has {', '.join(metric.choices)}")
