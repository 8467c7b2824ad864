"""The plain start: one answer for all questions, the commonest of the training rows or their mean.

Naive on purpose: no column is looked at. Improving on that is what the experiment is about.
"""

import argparse
import csv
import json
from collections import Counter
from pathlib import Path
from statistics import fmean, median_low


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def constant(truths: list[str], kind: str, columns: list[str]) -> list[object]:
    """The cells of every row, in the order of `columns`."""
    if kind == "probabilities":
        counts = Counter(truths)
        shares = [counts[name] / len(truths) for name in columns]
        return [share / sum(shares) for share in shares]
    if kind == "class":
        return [Counter(truths).most_common(1)[0][0]]
    numbers = [float(truth) for truth in truths]
    return [int(median_low(numbers)) if kind == "rating" else fmean(numbers)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    asked = json.loads((args.dataset_dir / "competition.json").read_text(encoding="utf-8"))
    train, questions = read(args.dataset_dir / "train.csv"), read(args.dataset_dir / "questions.csv")
    cells = constant([row[asked["answer"]] for row in train], asked["kind"], asked["columns"])
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerow([asked["id"], *asked["columns"]])
        csv.writer(stream).writerows([row[asked["id"]], *cells] for row in questions)


if __name__ == "__main__":
    main()
