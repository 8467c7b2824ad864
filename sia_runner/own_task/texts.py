"""The texts of a new task: its metric, task.md, and its YAML."""

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sia_runner.tasks.verifiers.common import finite

_MANY = 20  # different answers, up to which they are listed as choices; of numbers, from which they are measurements


def metric_of(answers: Sequence[str]) -> dict[str, Any]:
    """Choose the metric for such answers: one of a few choices, a number, or the same text."""
    different = Counter(answers)
    numbers = [finite(answer) for answer in different]
    if len(different) > _MANY and None not in numbers:
        values = [float(answer) for answer in answers]
        return {"name": "accuracy", "verifier": "numeric", "tolerance": float(f"{statistics.pstdev(values) / 5:.2g}")}
    plain = all(answer == answer.strip() and "${" not in answer for answer in different)  # that would be Hydra's
    if 2 <= len(different) <= _MANY and plain:
        return {"name": "accuracy", "verifier": "choice", "choices": sorted(different)}
    return {"name": "accuracy", "verifier": "exact_match"}


def description(name: str, columns: Sequence[str], answer: str, metric: dict[str, Any], *, example: bool) -> str:
    """Return the text of task.md."""
    question = f"Each question is one row with the columns {_ticked(columns)}. Answer its `{answer}`."
    if example:
        question = "Each question is a message to a shop. Answer which desk should deal with it."
    forms = {
        "choice": f"An answer is one of {_ticked(metric.get('choices', []))}, and nothing else in the cell.",
        "numeric": f"An answer is a plain number; it is right within {metric.get('tolerance', 0):g} of the true one.",
        "exact_match": "An answer is right when it is the same text, spaces around it aside; case counts.",
    }
    score = "The score is accuracy: right answers divided by all questions, answered or not."
    return f"# {name.replace('_', ' ').capitalize()}\n\n{question}\n\n{forms[metric['verifier']]}\n\n{score}\n"


def _ticked(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def config(
    folder: Path, id_column: str, answer: str, metric: dict[str, Any], answers: Sequence[str], licence: str
) -> str:
    """Return the task's YAML, with comments."""
    free = len(set(answers)) > len(answers) / 4
    few = len(answers) < 2000
    splits = {
        "dev": 0.15 if few else 0.1,
        "val": 0.3 if few else 0.2,
        "test": 0.25 if few else 0.2,
        "stratify": not free,
    }
    parts = {
        "name": folder.name,
        "_target_": "sia_runner.tasks.table.TableTask",
        "dir": str(folder),
        "data": {"labelled": "labelled.csv", "licence": licence},
        "columns": {"id": id_column, "answer": answer},
        "metric": metric,
        "splits": splits,
        "limits": {"run": 120, "gate": 30},
    }
    says = {
        "dir": "where this folder lies; change it when you move it",
        "data": "say in licence what others may do with the data",
        "metric": "exact_match, choice, letter, numeric, auc; or python, for a verifier.py of your own",
        "splits": "shares of the labelled rows; the rest is train",
        "limits": "seconds",
    }
    title = f"{folder.name.replace('_', ' ').capitalize()}: {answer} of {len(answers):,} labelled rows."
    lines = [f"# {' '.join(title.split())}"]
    for key, value in parts.items():
        lines += [f"# {says[key]}"] if key in says else []
        lines.append(yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=110).rstrip())
    return "\n".join(lines) + "\n"
