"""Computes every knight tour's key again, exactly, and follows every best line on the board.

    python check_keys.py --source DIR

DIR holds labelled.csv (tasks/longcot_chess/* of the cache folder). Prints the ids of keys that do not hold, no answers.
"""

import argparse
import csv
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE / "recipes"), str(HERE.parents[1])]


def faults(rows: list[dict[str, str]]) -> list[str]:
    """Return a line for each key that does not hold."""
    from exact import distances, read_squares, shortest
    from verifier import fen, line

    messages = []
    for row in rows:
        if row["template"] == "knight_path":
            fewest = shortest(distances(read_squares(row["prompt"])))
            if fewest != int(row["answer"]):
                messages.append(f"{row['id']}: not the least number of moves")
        else:
            try:
                line(row["answer"], row["answer"], fen(row["prompt"]))
            except ValueError:
                messages.append(f"{row['id']}: not a legal line")
    return messages


def main() -> None:
    """Check all keys; exit with 1 where one does not hold."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", type=Path, required=True)
    with (parser.parse_args().source / "labelled.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    messages = faults(rows)
    print("\n".join(messages) or f"all {len(rows)} keys hold")
    sys.exit(1 if messages else 0)


if __name__ == "__main__":
    main()
