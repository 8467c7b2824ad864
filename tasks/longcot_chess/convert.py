"""Makes labelled.csv of the two JSON files that sia-agent carries: prompts, and answers as they are to be written."""

import argparse
import csv
import json
from pathlib import Path

DATA = "sia/tasks/longcot-chess/data"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    questions = json.loads((args.source / DATA / "public/chess_hard.json").read_text(encoding="utf-8"))
    answers = json.loads((args.source / DATA / "private/answers.json").read_text(encoding="utf-8"))
    with (args.out / "labelled.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", "template", "prompt", "answer"])
        for row in questions:
            answer = answers[row["question_id"]]
            written = "[" + ", ".join(answer) + "]" if isinstance(answer, list) else str(answer)
            writer.writerow([row["question_id"], row["problem"]["template"], row["prompt"].strip(), written])


if __name__ == "__main__":
    main()
