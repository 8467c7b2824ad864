"""Makes labelled.csv of the JSON file that sia-agent carries. Explanations are left out: no harness is to see them."""

import argparse
import csv
import json
from pathlib import Path

SOURCE = "sia/tasks/gpqa/data/private/diamond_questions.json"
OPTIONS = ("A", "B", "C", "D")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with (args.out / "labelled.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", "question", *OPTIONS, "domain", "subdomain", "answer"])
        for row in json.loads((args.source / SOURCE).read_text(encoding="utf-8")):
            options = [row["options"][name].strip() for name in OPTIONS]
            answer = row["correct_answer_letter"]
            writer.writerow([row["id"], row["Question"].strip(), *options, row["domain"], row["subdomain"], answer])


if __name__ == "__main__":
    main()
