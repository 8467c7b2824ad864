"""Knight tours, exact: an integer programme over the pairs of squares, closed rings forbidden as they appear."""

import argparse
import csv
import re
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

SIDE, WIDTH = 100, 104  # the board has a border of two squares, so that no jump leaves the list
JUMPS = [up * WIDTH + across for up, across in ((1, 2), (2, 1), (2, -1), (1, -2), (-1, -2), (-2, -1), (-2, 1), (-1, 2))]
EMPTY = [-1 if 2 <= x < SIDE + 2 and 2 <= y < SIDE + 2 else 0 for y in range(WIDTH) for x in range(WIDTH)]


def read_squares(prompt: str) -> list[int]:
    """The starting square and the targets, as places in the board's list."""
    pairs = re.findall(r"\((\d+), (\d+)\)", prompt)
    return list(dict.fromkeys((int(y) + 2) * WIDTH + int(x) + 2 for x, y in pairs))


def distances(squares: list[int]) -> list[list[int]]:
    """Knight moves between every two squares, by breadth-first search over the board."""
    table = []
    for origin in squares:
        steps = EMPTY.copy()
        steps[origin] = 0
        reached, step = [origin], 0
        while reached:
            step += 1
            fresh = []
            for square in reached:
                for jump in JUMPS:
                    if steps[square + jump] < 0:
                        steps[square + jump] = step
                        fresh.append(square + jump)
            reached = fresh
        table.append([steps[square] if square != origin else 0 for square in squares])
    return table


def shortest(table: list[list[int]]) -> int:
    """The length of the shortest way from place 0 through all others.

    One more place, next to the start and no moves away from any other, closes the way to a ring: each place has two
    neighbours, and no part of the places may be a ring of its own.
    """
    count = len(table) + 1
    pairs = list(combinations(range(count), 2))
    cost = np.array([table[a][b] if b < count - 1 else 0 for a, b in pairs], dtype=float)
    ends = np.array([[place in pair for pair in pairs] for place in range(count)], dtype=float)
    must = np.array([pair == (0, count - 1) for pair in pairs], dtype=float)
    rules, at_least, at_most = list(ends), [2.0] * count, [2.0] * count
    while True:
        found = milp(
            cost,
            integrality=np.ones(len(pairs)),
            bounds=Bounds(must, np.ones(len(pairs))),
            constraints=LinearConstraint(np.array(rules), at_least, at_most),
            options={"mip_rel_gap": 0.0},
        )
        chosen = [pair for pair, used in zip(pairs, found.x, strict=True) if used > 0.5]
        rings = parts(count, chosen)
        if len(rings) == 1:
            return round(found.fun)
        for ring in rings:
            rules.append(np.array([(a in ring) != (b in ring) for a, b in pairs], dtype=float))
            at_least.append(2.0)
            at_most.append(np.inf)


def parts(count: int, pairs: list[tuple[int, int]]) -> list[set[int]]:
    """The places that hang together."""
    part = {place: {place} for place in range(count)}
    for a, b in pairs:
        if part[a] is not part[b]:
            part[a] |= part[b]
            part.update(dict.fromkeys(part[b], part[a]))
    return [joined for place, joined in part.items() if place == min(joined)]


def answer(row: dict[str, str]) -> str:
    return str(shortest(distances(read_squares(row["prompt"])))) if row["template"] == "knight_path" else ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    args = parser.parse_args()
    with (args.dataset_dir / "questions.csv").open(encoding="utf-8", newline="") as stream:
        answers = [(row["id"], answer(row)) for row in csv.DictReader(stream)]
    with (args.working_dir / "submission.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("id", "answer"), *answers])


if __name__ == "__main__":
    main()
