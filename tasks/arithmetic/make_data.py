"""Makes the arithmetic task's data: a number of three digits plus 1, 2, 3 or 4. Always the same.

    python make_data.py --out DIR     writes labelled.csv (1,400 rows), test.csv and answers.csv (400 rows each)

All 1,800 questions differ. They are a part of the 3,584 that there are, and each is made of the same forty sums of last
digits and of carrying: what a policy learns from some of them holds for the others.
"""

import argparse
import csv
import random
from pathlib import Path

LABELLED, TEST = 1400, 400


def distinct_sums(count: int) -> list[tuple[str, str]]:
    """Questions and answers."""
    rng = random.Random(20262)  # the data is part of the task: its seed is no option
    pairs = [(a, b) for a in range(100, 996) for b in range(1, 5)]  # so that answers have three digits too
    return [(f"{a}+{b}=", str(a + b)) for a, b in rng.sample(pairs, count)]


def write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    sums = distinct_sums(LABELLED + TEST)
    test = list(enumerate(sums[LABELLED:]))
    write(out / "labelled.csv", ["id", "question", "answer"], [[i, *pair] for i, pair in enumerate(sums[:LABELLED])])
    write(out / "test.csv", ["id", "question"], [[i, question] for i, (question, _) in test])
    write(out / "answers.csv", ["id", "answer"], [[i, answer] for i, (_, answer) in test])


if __name__ == "__main__":
    main()
