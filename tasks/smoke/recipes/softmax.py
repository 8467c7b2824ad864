"""Softmax regression over runs of words, trained by stochastic gradient steps."""

import argparse
import csv
import math
import random
from collections import defaultdict
from pathlib import Path

NGRAM_MAX = 2
EPOCHS = 6
RATE = 0.3
DECAY = 0.001


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def features(text: str) -> list[str]:
    words = text.lower().split()
    runs = [" ".join(words[i : i + n]) for n in range(1, NGRAM_MAX + 1) for i in range(len(words) - n + 1)]
    return ["", *runs]  # the empty run is in every text: the label's own weight


class SoftmaxRegression:
    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.labels = sorted({row["label"] for row in rows})
        self.weights = {label: defaultdict(float) for label in self.labels}
        examples = [(features(row["text"]), row["label"]) for row in rows]
        rng = random.Random(0)
        for epoch in range(EPOCHS):
            rng.shuffle(examples)
            for found, label in examples:
                self.learn(found, label, RATE / (1 + epoch))

    def learn(self, found: list[str], label: str, rate: float) -> None:
        for each, probability in self.probabilities(found).items():
            error = (each == label) - probability
            weights = self.weights[each]
            for feature in found:
                weights[feature] += rate * (error - DECAY * weights[feature])

    def probabilities(self, found: list[str]) -> dict[str, float]:
        raised = {label: math.exp(min(50.0, self.score(found, label))) for label in self.labels}
        total = sum(raised.values())
        return {label: value / total for label, value in raised.items()}

    def score(self, found: list[str], label: str) -> float:
        weights = self.weights[label]
        return sum(weights.get(feature, 0.0) for feature in found)

    def answer(self, text: str) -> str:
        found = features(text)
        return max(self.labels, key=lambda label: self.score(found, label))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    model = SoftmaxRegression(read(args.dataset_dir / "train.csv"))
    answers = [(row["id"], model.answer(row["text"])) for row in read(args.dataset_dir / "questions.csv")]
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "label"), *answers])


if __name__ == "__main__":
    main()
