"""The verifier of knight tours, by their length, and of lines of moves, by the rules of chess."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reading import integer, moves

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.tasks.verifiers.submission import UnreadableError, read_answers

if TYPE_CHECKING:
    import chess

SHOWN = 300  # characters of a prediction that are kept
MOST_BYTES = 8 << 20
Verdict = tuple[OutcomeKind, float]
CORRECT, WRONG, INVALID = (OutcomeKind.CORRECT, 1.0), (OutcomeKind.WRONG, 0.0), (OutcomeKind.INVALID_FORMAT, 0.0)


def verify(submission: Path, answers: Mapping[str, str], questions: Mapping[str, Mapping[str, str]]) -> list[Outcome]:
    """Return one outcome per question that was answered, or whose answer cannot be read."""
    try:
        texts, spoiled = read_answers(
            submission / "submission.csv", "id", "answer", answers, 20 * len(answers) + 10_000, MOST_BYTES
        )
    except FileNotFoundError:
        return []
    except UnreadableError as error:
        return [Outcome(unit, *INVALID, f"(submission.csv: {error})") for unit in answers]
    outcomes = [Outcome(unit, *INVALID, "(answered twice, or the row does not fit the header)") for unit in spoiled]
    for unit, text in texts.items():
        if text.strip():
            outcomes.append(Outcome(unit, *judge(text, answers[unit], questions[unit]), text.strip()[:SHOWN]))
    return outcomes


def judge(text: str, gold: str, question: Mapping[str, str]) -> Verdict:
    """Judge one answer by the template of its question."""
    if question["template"] == "knight_path":
        return tour(text, gold)
    return line(text, gold, fen(question["prompt"]))


def tour(text: str, gold: str) -> Verdict:
    """Compare a number of moves with the key, the least number; check_keys.py computes it again, exactly."""
    number = integer(text)
    if number is None:
        return INVALID
    return CORRECT if number == int(gold) else WRONG


def line(text: str, gold: str, position: str) -> Verdict:
    """Follow the key's line move by move; each move is read in the position that the key's earlier moves lead to."""
    import chess

    answer_moves, key = moves(text), moves(gold)
    if answer_moves is None or key is None or len(answer_moves) != len(key):
        return INVALID
    board = chess.Board(position)
    for answer_move, key_move in zip(answer_moves, key, strict=True):
        move = board.parse_san(key_move)
        if played(board, answer_move) != move:
            return WRONG
        board.push(move)
    return CORRECT


def played(board: "chess.Board", text: str) -> "chess.Move | None":
    """Return the legal move that `text` names in SAN or UCI; None where it names none."""
    for read, spelling in ((board.parse_san, text), (board.parse_uci, text.lower())):
        try:
            return read(spelling)
        except ValueError:
            continue
    return None


def fen(prompt: str) -> str:
    """Return the position in a prompt. Raises ValueError where there is none."""
    match = re.search(r"FEN: (.+)", prompt)
    if not match:
        raise ValueError("a prompt without a FEN")
    return match[1].strip()
