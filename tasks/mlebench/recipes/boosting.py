"""Gradient boosting on the columns as they stand: numbers, and texts by their place in the alphabet."""

import argparse
import csv
import json
import math
from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

RATE = 0.1
ROUNDS = 150
LEAVES = 15


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def number(text: str) -> float:
    """NaN for an empty cell and for anything else that is no finite number."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def column(cells: list[str]) -> np.ndarray:
    """Numbers where most cells are numbers; otherwise the rank of each text among all, NaN for empty cells."""
    numbers = np.array([number(cell) for cell in cells])
    filled = sum(bool(cell.strip()) for cell in cells)
    if np.isfinite(numbers).sum() >= 0.9 * max(filled, 1):
        return numbers
    ranks = np.unique(cells, return_inverse=True)[1].astype(float)
    return np.where([bool(cell.strip()) for cell in cells], ranks, np.nan)


def table(train: list[dict[str, str]], questions: list[dict[str, str]], left_out: set[str]) -> np.ndarray:
    """Features of both; a column without any value in the training rows says nothing."""
    names = [name for name in questions[0] if name not in left_out]
    columns = [column([row[name] for row in train + questions]) for name in names]
    telling = [values for values in columns if np.isfinite(values[: len(train)]).any()]
    return np.column_stack(telling or [np.zeros(len(train) + len(questions))])


def answers(features: np.ndarray, truths: list[str], asked: dict) -> list[list[object]]:
    """A row of cells for each question, whose features stand behind those of the training rows."""
    learned, new = features[: len(truths)], features[len(truths) :]
    options = {"learning_rate": RATE, "max_iter": ROUNDS, "max_leaf_nodes": LEAVES, "random_state": 0}
    if asked["kind"] in ("number", "rating"):
        numbers = np.array(truths, dtype=float)
        given = HistGradientBoostingRegressor(**options).fit(learned, numbers).predict(new)
        if asked["kind"] == "rating":
            return [[int(value)] for value in np.clip(np.rint(given), numbers.min(), numbers.max())]
        return [[value] for value in given]
    model = HistGradientBoostingClassifier(**options).fit(learned, truths)
    if asked["kind"] == "class":
        return [[name] for name in model.predict(new)]
    shares, place = model.predict_proba(new), {name: at for at, name in enumerate(model.classes_)}
    if asked["kind"] == "probability":
        return [[row[place["1"]]] for row in shares]
    return [[row[place[name]] if name in place else 0.0 for name in asked["columns"]] for row in shares]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    asked = json.loads((args.dataset_dir / "competition.json").read_text(encoding="utf-8"))
    train, questions = read(args.dataset_dir / "train.csv"), read(args.dataset_dir / "questions.csv")
    features = table(train, questions, {asked["id"], "file"})
    cells = answers(features, [row[asked["answer"]] for row in train], asked)
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerow([asked["id"], *asked["columns"]])
        csv.writer(stream).writerows(
            [row[asked["id"]], *row_cells] for row, row_cells in zip(questions, cells, strict=True)
        )


if __name__ == "__main__":
    main()
