"""Naive Bayes over single words."""

import argparse
import csv
import math
from collections import Counter, defaultdict
from pathlib import Path

ALPHA = 1.0


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def features(text: str) -> list[str]:
    return text.lower().split()


class NaiveBayes:
    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.labels = Counter(row["label"] for row in rows)
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        for row in rows:
            self.counts[row["label"]].update(features(row["text"]))
        self.known = {feature for counts in self.counts.values() for feature in counts}
        self.totals = {label: sum(self.counts[label].values()) + ALPHA * len(self.known) for label in self.labels}

    def score(self, found: list[str], label: str) -> float:
        counts, total = self.counts[label], self.totals[label]
        return math.log(self.labels[label]) + sum(
            math.log((counts[feature] + ALPHA) / total) for feature in found if feature in self.known
        )

    def answer(self, text: str) -> str:
        found = features(text)
        return max(sorted(self.labels), key=lambda label: self.score(found, label))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    model = NaiveBayes(read(args.dataset_dir / "train.csv"))
    answers = [(row["id"], model.answer(row["text"])) for row in read(args.dataset_dir / "questions.csv")]
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "label"), *answers])


if __name__ == "__main__":
    main()
