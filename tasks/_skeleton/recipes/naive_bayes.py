"""Naive Bayes over the words and numbers of all columns. Of many different numbers it answers the middle of a bin."""

import argparse
import bisect
import csv
import math
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

ID = "id"
ANSWER = "label"
ALPHA = 0.3
PAIRS = True
BINS = 8
MANY = 20  # different numbers from which they are measurements, not names of classes
MEASURED = True  # many different numbers are measurements; False: they name classes


def read(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def cuts(cells: list[str]) -> list[float] | None:
    """Bounds of bins that hold equally many of the cells; None where these are not many different numbers."""
    values = sorted(value for cell in cells if (value := number(cell)) is not None)
    filled = sum(1 for cell in cells if cell.strip())
    if len(set(values)) <= MANY or len(values) < filled:
        return None
    return sorted({values[len(values) * k // BINS] for k in range(1, BINS)})


class Features:
    """Of a row: words, pairs of words, bins of numbers; each with its column's name."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self.columns = [name for name in rows[0] if name not in (ID, ANSWER)]
        self.cuts = {name: cuts([row[name] for row in rows]) for name in self.columns}

    def of(self, row: dict[str, str]) -> list[str]:
        found = []
        for name in self.columns:
            bounds, value = self.cuts[name], number(row[name])
            if bounds is not None and value is not None:
                found.append(f"{name} bin {bisect.bisect(bounds, value)}")
                continue
            words = re.findall(r"\w+", row[name].lower())
            found += [f"{name} {word}" for word in words]
            found += [f"{name} {one} {two}" for one, two in pairwise(words)] if PAIRS else []
        return found


class NaiveBayes:
    def __init__(self, examples: list[tuple[list[str], str]]) -> None:
        self.classes = Counter(answer for _, answer in examples)
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        for found, answer in examples:
            self.counts[answer].update(found)
        self.known = {feature for counts in self.counts.values() for feature in counts}
        self.totals = {name: sum(self.counts[name].values()) + ALPHA * len(self.known) for name in self.classes}

    def answer(self, found: list[str]) -> str:
        known = [feature for feature in found if feature in self.known]
        return max(sorted(self.classes), key=lambda name: self.score(known, name))

    def score(self, known: list[str], name: str) -> float:
        counts, total = self.counts[name], self.totals[name]
        return math.log(self.classes[name]) + sum(math.log((counts[one] + ALPHA) / total) for one in known)


def binned(answers: list[str]) -> list[str]:
    """The answers themselves; of many different numbers the middle one of each answer's bin."""
    bounds = cuts(answers) if MEASURED else None
    if bounds is None:
        return answers
    bins: dict[int, list[str]] = defaultdict(list)
    for answer in sorted(answers, key=float):
        bins[bisect.bisect(bounds, float(answer))].append(answer)
    middle = {place: members[len(members) // 2] for place, members in bins.items()}
    return [middle[bisect.bisect(bounds, float(answer))] for answer in answers]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    train = read(args.dataset_dir / "train.csv")
    features, answers = Features(train), binned([row[ANSWER] for row in train])
    model = NaiveBayes([(features.of(row), answer) for row, answer in zip(train, answers, strict=True)])
    rows = [(row[ID], model.answer(features.of(row))) for row in read(args.dataset_dir / "questions.csv")]
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([(ID, ANSWER), *rows])


if __name__ == "__main__":
    main()
