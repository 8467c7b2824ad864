"""The naive start without a model: an empty file for each task."""

import argparse
import csv
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            folder = args.working_dir / "answers" / row["id"]
            folder.mkdir(parents=True)
            (folder / "answer.txt").write_text("")


if __name__ == "__main__":
    main()
