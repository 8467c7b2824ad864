"""The naive start without a model: the most frequent answer of train, or the first choice."""

import argparse
import csv
from collections import Counter
from pathlib import Path


def read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    csv.field_size_limit(1 << 24)
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    common = Counter(row["answer"] for row in read(args.dataset_dir / "train.csv")).most_common(1)
    answer = common[0][0] if common else "A"
    rows = ((row["id"], answer) for row in read(args.dataset_dir / "questions.csv"))
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "answer"), *rows])


if __name__ == "__main__":
    main()
