"""Makes the questions: the competition's cases, each drawn three times. The answer to a question is a secret seed.

    python make_data.py --out DIR [--device cuda] [--flush_l2 1]

On a GPU the questions are the seven shapes that are timed (the 18 that must be right are asked every time); without
one, the 18, scaled down. Seeds come from the operating system: in no file that a harness can see, and different on
every machine that prepares the task.
"""

import argparse
import csv
import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cases import CORRECT, TIMED, small

DRAWS = 3  # one each for dev, val and test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--flush_l2", type=int, choices=[0, 1], default=0)
    args = parser.parse_args()
    cases = [small(case) for case in CORRECT] if args.device == "cpu" else TIMED
    own = {"device": args.device, "flush_l2": args.flush_l2}
    rows = [
        {"id": f"{number:02d}{'abc'[draw]}", "case": number, "draw": draw, **own, **case.columns()}
        for number, case in enumerate(cases)
        for draw in range(DRAWS)
    ]
    with (args.out / "cases.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "seed"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "seed": secrets.randbits(62)} for row in rows)


if __name__ == "__main__":
    main()
