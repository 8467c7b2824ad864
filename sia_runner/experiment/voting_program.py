"""The program of a voting control arm: it runs a harness several times and takes each question's most frequent answer.

It is copied into the candidate's harness, beside the folder `voted` and the file voting.json, and needs the standard
library alone. It knows no gold answer: the vote is among the samples. A tie goes to the answer that came first.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

_HOME = Path(__file__).resolve().parent
Votes = dict[str, Counter[tuple[str, ...]]]


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of `columns` of each row of a CSV file; none if the file is missing or has no such columns."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.DictReader(stream)
        if set(columns) <= set(reader.fieldnames or ()):
            for row in reader:
                yield tuple((row[column] or "").strip() for column in columns)


def count_votes(votes: Votes, path: Path, columns: Sequence[str]) -> int:
    """Add the answers of one sample to `votes`, an id once; return their number."""
    sample = {row[0]: row[1:] for row in read_rows(path, columns) if any(row[1:])}
    for name, answer in sample.items():
        votes.setdefault(name, Counter())[answer] += 1
    return len(sample)


def write_winners(votes: Votes, path: Path, columns: Sequence[str]) -> None:
    """Write the most frequent answer to each question."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(columns)
        rows.writerows((name, *counts.most_common(1)[0][0]) for name, counts in votes.items())


def main() -> int:
    """Run the samples one after the other, and write the votes after each; return 1 if no sample answered."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    settings = json.loads((_HOME / "voting.json").read_text(encoding="utf-8"))
    program, columns, votes = _HOME / "voted" / settings["entry"], settings["columns"], Votes()
    for k in range(settings["samples"]):
        folder = args.working_dir / f"sample_{k}"
        folder.mkdir()
        command = [sys.executable, program, "--dataset_dir", args.dataset_dir, "--working_dir", folder]
        try:
            code = subprocess.run([str(part) for part in command], check=False, timeout=settings["seconds"]).returncode
        except subprocess.TimeoutExpired:
            code = -1
        number = count_votes(votes, folder / settings["submission"], columns)
        print(f"sample {k}: exit code {code}, {number} answers", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        write_winners(votes, args.working_dir / settings["submission"], columns)
    return 0 if votes else 1


if __name__ == "__main__":
    sys.exit(main())
