"""Judges knight tours by their length, and lines of moves by the rules of chess."""

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
    """One outcome per question that was answered, or whose answer cannot be taken."""
    try:
        given, spoiled = read_answers(
            submission / "submission.csv", "id", "answer", answers, 20 * len(answers) + 10_000, MOST_BYTES
        )
    except FileNotFoundError:
        return []
    except UnreadableError as error:
        return [Outcome(unit, *INVALID, f"(submission.csv: {error})") for unit in answers]
    outcomes = [Outcome(unit, *INVALID, "(answered twice, or the row does not fit the header)") for unit in spoiled]
    for unit, text in given.items():
        if text.strip():
            outcomes.append(Outcome(unit, *judge(text, answers[unit], questions[unit]), text.strip()[:SHOWN]))
    return outcomes


def judge(text: str, gold: str, question: Mapping[str, str]) -> Verdict:
    if question["template"] == "knight_path":
        return tour(text, gold)
    return line(text, gold, fen(question["prompt"]))


def tour(text: str, gold: str) -> Verdict:
    """The key is the least number of moves: check_keys.py computes it again, exactly."""
    number = integer(text)
    if number is None:
        return INVALID
    return CORRECT if number == int(gold) else WRONG


def line(text: str, gold: str, position: str) -> Verdict:
    """Move by move along the key's line; each is read in the position that the key's moves before it lead to."""
    import chess

    given, key = moves(text), moves(gold)
    if given is None or key is None or len(given) != len(key):
        return INVALID
    board = chess.Board(position)
    for one, wanted in zip(given, key, strict=True):
        move = board.parse_san(wanted)
        if played(board, one) != move:
            return WRONG
        board.push(move)
    return CORRECT


def played(board: "chess.Board", text: str) -> "chess.Move | None":
    """The legal move that `text` names in SAN or UCI; None where it names none."""
    for read, spelling in ((board.parse_san, text), (board.parse_uci, text.lower())):
        try:
            return read(spelling)
        except ValueError:
            continue
    return None


def fen(prompt: str) -> str:
    found = re.search(r"FEN: (.+)", prompt)
    if not found:
        raise ValueError("a prompt without a FEN")
    return found[1].strip()
