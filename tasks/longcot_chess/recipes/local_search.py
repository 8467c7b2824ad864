"""Knight tours by local search: turn and move pieces of a tour until nothing helps, cut it at random, begin again."""

import argparse
import csv
import random
import re
from itertools import pairwise
from pathlib import Path

KICKS = 3

Table = list[list[int]]
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


def with_free_end(table: Table) -> Table:
    """One more place, no moves away from any other: a tour that ends there may end anywhere."""
    return [[*row, 0] for row in table] + [[0] * (len(table) + 1)]


def nearest_first(table: Table) -> list[int]:
    tour, left = [0], set(range(1, len(table) - 1))
    while left:
        tour.append(min(left, key=lambda place: (table[tour[-1]][place], place)))
        left.remove(tour[-1])
    return [*tour, len(table) - 1]


def turn_one(tour: list[int], table: Table) -> bool:
    """Turn round the first piece for which that makes the tour shorter."""
    for i in range(1, len(tour) - 2):
        before, first = table[tour[i - 1]], table[tour[i]]
        for j in range(i + 1, len(tour) - 1):
            last, after = tour[j], tour[j + 1]
            if before[last] + first[after] < before[tour[i]] + table[last][after]:
                tour[i : j + 1] = tour[i : j + 1][::-1]
                return True
    return False


def move_one(tour: list[int], table: Table) -> bool:
    """Put a piece of one to three places elsewhere, either way round, where that makes the tour shorter."""
    for size in (1, 2, 3):
        for i in range(1, len(tour) - size):
            piece, rest = tour[i : i + size], tour[:i] + tour[i + size :]
            first, last, before, after = piece[0], piece[-1], tour[i - 1], tour[i + size]
            spared = table[before][first] + table[last][after] - table[before][after]
            for k in range(len(rest) - 1):
                a, b = table[rest[k]], table[rest[k + 1]]
                cost = min(a[first] + b[last], a[last] + b[first]) - a[rest[k + 1]]
                if cost < spared:
                    forward = a[first] + b[last] <= a[last] + b[first]
                    tour[:] = rest[: k + 1] + (piece if forward else piece[::-1]) + rest[k + 1 :]
                    return True
    return False


def shortest(table: Table, rng: random.Random) -> int:
    """The best of KICKS + 1 local searches, each but the first begun from the best tour with two pieces exchanged."""
    best, fewest = nearest_first(table), 0
    for kick in range(KICKS + 1):
        tour = best.copy()
        if kick and len(tour) > 5:
            a, b, c = sorted(rng.sample(range(1, len(tour)), 3))
            tour = tour[:a] + tour[b:c] + tour[a:b] + tour[c:]
        while turn_one(tour, table) or move_one(tour, table):
            pass
        moves = sum(table[a][b] for a, b in pairwise(tour))
        if not kick or moves <= fewest:
            best, fewest = tour, moves
    return fewest


def answer(row: dict[str, str]) -> str:
    if row["template"] != "knight_path":
        return ""
    table = with_free_end(distances(read_squares(row["prompt"])))
    return str(shortest(table, random.Random(len(row["prompt"]))))


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
