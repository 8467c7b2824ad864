"""Knight tours, exact, by an integer programme; best lines by a small alpha-beta search over python-chess."""

import argparse
import csv
import re
from itertools import combinations
from pathlib import Path

import chess
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

NODES = 6000

WORTH = {chess.PAWN: 100, chess.KNIGHT: 320, chess.BISHOP: 330, chess.ROOK: 500, chess.QUEEN: 900, chess.KING: 0}
MATE, DEEPEST, DEEPEST_CAPTURES = 100_000, 12, 6

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


class OutOfNodes(Exception):
    pass


class Search:
    """Alpha-beta with a bound on the positions looked at, so that the answer does not depend on the machine."""

    def __init__(self, board: chess.Board) -> None:
        self.board, self.left = board, NODES

    def best(self) -> chess.Move:
        """The best move of the deepest search that was finished; the moves of each search order the next."""
        moves = sorted(self.board.legal_moves, key=self._promise, reverse=True)
        for depth in range(1, DEEPEST):
            try:
                moves = self._ranked(moves, depth)
            except OutOfNodes:
                break
        return moves[0]

    def _ranked(self, moves: list[chess.Move], depth: int) -> list[chess.Move]:
        best, found = -MATE * 2, list(moves)
        for move in moves:
            score = -self._after(move, depth - 1, -MATE * 2, -best)
            if score > best:
                best = score
                found.remove(move)
                found.insert(0, move)
        return found

    def _after(self, move: chess.Move, depth: int, low: int, high: int) -> int:
        self.board.push(move)
        try:
            return self._value(depth, low, high)
        finally:
            self.board.pop()

    def _value(self, depth: int, low: int, high: int) -> int:
        """In hundredths of a pawn, for the side to move; only captures below depth 0."""
        self.left -= 1
        if self.left < 0:
            raise OutOfNodes
        check = self.board.is_check()
        quiet = depth <= 0 and not check
        if quiet:
            low = max(low, self._still())
            if low >= high or depth < -DEEPEST_CAPTURES:
                return low
        moves = list(self.board.generate_legal_captures() if quiet else self.board.legal_moves)
        if not moves and not quiet:
            return -MATE - depth if check else 0
        for move in sorted(moves, key=self._promise, reverse=True):
            low = max(low, -self._after(move, depth - 1, -high, -low))
            if low >= high:
                break
        return low

    def _promise(self, move: chess.Move) -> int:
        """Captures of much by little first, and promotions."""
        taken = self.board.piece_type_at(move.to_square)
        mover = self.board.piece_type_at(move.from_square) or chess.PAWN
        gain = 10 * WORTH[taken] - WORTH[mover] if taken else 0
        return gain + (10 * WORTH[move.promotion] if move.promotion else 0)

    def _still(self) -> int:
        sides = {side: self._side(side) for side in chess.COLORS}
        return sides[self.board.turn] - sides[not self.board.turn]

    def _side(self, side: chess.Color) -> int:
        """Material, pawns on their way, a king that goes where the pawns are, pieces in the middle."""
        board, total = self.board, 0
        theirs = board.pieces(chess.PAWN, not side)
        king = chess.lsb(board.pieces_mask(chess.KING, side))
        for kind, worth in WORTH.items():
            for square in board.pieces(kind, side):
                total += worth
                if kind == chess.PAWN:
                    rank = chess.square_rank(square) if side else 7 - chess.square_rank(square)
                    total += 10 * rank * rank // 4 if self._passed(square, side, theirs) else 2 * rank
                    total -= 2 * chess.square_distance(king, square)
                elif kind in (chess.KNIGHT, chess.BISHOP):
                    total -= 4 * chess.square_distance(square, chess.E4)
        return total

    @staticmethod
    def _passed(square: int, side: chess.Color, theirs: chess.SquareSet) -> bool:
        file, rank = chess.square_file(square), chess.square_rank(square)
        return not any(
            abs(chess.square_file(other) - file) <= 1 and (chess.square_rank(other) > rank) == side
            for other in theirs
            if chess.square_rank(other) != rank
        )


def best_line(position: str) -> str:
    board, line = chess.Board(position), []
    while len(line) < 3 and any(board.legal_moves):
        move = Search(board).best()
        line.append(board.san(move))
        board.push(move)
    return f"[{', '.join(line)}]"


def answer(row: dict[str, str]) -> str:
    if row["template"] == "knight_path":
        return str(shortest(distances(read_squares(row["prompt"]))))
    return best_line(re.findall(r"FEN: (.+)", row["prompt"])[0].strip())


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
