"""Averaged perceptron over runs of words: one weight for each (label, run), changed by each mistake."""

import argparse
import csv
import random
from collections import defaultdict
from pathlib import Path

NGRAM_MAX = 2
EPOCHS = 5
MARGIN = 0.0


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def features(text: str) -> list[str]:
    words = text.lower().split()
    runs = [" ".join(words[i : i + n]) for n in range(1, NGRAM_MAX + 1) for i in range(len(words) - n + 1)]
    return ["", *runs]  # the empty run is in every text: the label's own weight


class Perceptron:
    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.labels = sorted({row["label"] for row in rows})
        self.weights = {label: defaultdict(float) for label in self.labels}
        self.sums = {label: defaultdict(float) for label in self.labels}
        self.step = 0
        examples = [(features(row["text"]), row["label"]) for row in rows]
        rng = random.Random(0)
        for _ in range(EPOCHS):
            rng.shuffle(examples)
            for found, label in examples:
                self.learn(found, label)
        for label in self.labels:  # the average over all steps: later mistakes weigh less
            for feature, total in self.sums[label].items():
                self.weights[label][feature] -= total / (self.step + 1)

    def learn(self, found: list[str], label: str) -> None:
        self.step += 1
        scores = {each: self.score(found, each) for each in self.labels}
        rival = max((each for each in self.labels if each != label), key=lambda each: scores[each])
        if scores[label] <= scores[rival] + MARGIN:
            for each, sign in ((label, 1.0), (rival, -1.0)):
                for feature in found:
                    self.weights[each][feature] += sign
                    self.sums[each][feature] += sign * self.step

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
    model = Perceptron(read(args.dataset_dir / "train.csv"))
    answers = [(row["id"], model.answer(row["text"])) for row in read(args.dataset_dir / "questions.csv")]
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "label"), *answers])


if __name__ == "__main__":
    main()
