"""Makes the smoke task's data: short product reviews from templates, three labels, a little noise. Always the same.

    python make_data.py --out DIR     writes labelled.csv (400 rows), test.csv and answers.csv (200 rows each)

Words alone are not enough: "not good" is negative and "not bad" is positive, so a program that looks at single words
ends near .66 and one that looks at pairs of words near .9. 4% of all labels are drawn again: nobody can learn those.
"""

import argparse
import csv
import random
from pathlib import Path

LABELLED, TEST, NOISE = 400, 200, 0.04
LABELS = ("negative", "neutral", "positive")
THINGS = ["battery", "screen", "strap", "lid", "cable", "handle", "motor", "filter", "case", "zip", "lamp", "fan"]
GOOD = ["good", "great", "reliable", "sturdy", "quiet", "pleasant", "useful", "bright"]
BAD = ["bad", "weak", "noisy", "fragile", "dull", "useless", "slow", "awkward"]
NOT = ("not", "never", "hardly")
PLAIN = (
    "it arrived on {day}",
    "i bought it in {colour}",
    "it came with a {thing}",
    "i use it on {day}",
    "the box was {colour}",
)
OPENINGS = ("", "honestly ", "after a week ", "so far ", "for the price ")
DAYS = ["monday", "tuesday", "friday", "sunday"]
COLOURS = ["red", "blue", "grey", "black"]


def fact(rng: random.Random) -> str:
    return rng.choice(PLAIN).format(day=rng.choice(DAYS), colour=rng.choice(COLOURS), thing=rng.choice(THINGS))


def opinion(rng: random.Random, positive: bool) -> str:
    negated = rng.random() < 0.4
    word = rng.choice(GOOD if positive != negated else BAD)
    return f"the {rng.choice(THINGS)} is {rng.choice(NOT) + ' ' if negated else ''}{word}"


def review(rng: random.Random) -> tuple[str, str]:
    """One text and its label."""
    label = rng.choices(LABELS, weights=(5, 3, 4))[0]
    parts = [fact(rng) for _ in range(2 if label == "neutral" else rng.randrange(2))]
    if label != "neutral":
        parts.insert(rng.randrange(len(parts) + 1), opinion(rng, label == "positive"))
    if rng.random() < NOISE:
        label = rng.choice(LABELS)
    return rng.choice(OPENINGS) + " and ".join(parts), label


def distinct_reviews(count: int) -> list[tuple[str, str]]:
    rng = random.Random(20261)  # the data is part of the task: its seed is no option
    found: dict[str, str] = {}
    while len(found) < count:
        text, label = review(rng)
        found.setdefault(text, label)
    return list(found.items())


def write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    reviews = distinct_reviews(LABELLED + TEST)
    test = list(enumerate(reviews[LABELLED:]))
    write(out / "labelled.csv", ["id", "text", "label"], [[i, *pair] for i, pair in enumerate(reviews[:LABELLED])])
    write(out / "test.csv", ["id", "text"], [[i, text] for i, (text, _) in test])
    write(out / "answers.csv", ["id", "label"], [[i, label] for i, (_, label) in test])


if __name__ == "__main__":
    main()
