"""The chess verifier: numbers and moves are read as a chess player would, and nothing hostile breaks it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_runner.records import OutcomeKind
from sia_runner.system import bundled_folder
from sia_runner.tasks.worker import load_module

pytest.importorskip("chess", reason="NOT CHECKED: chess is not installed (pip install 'sia-runner[chess]')")
VERIFIER = load_module(bundled_folder("tasks") / "longcot_chess" / "verifier.py")
line, tour, verify = VERIFIER.line, VERIFIER.tour, VERIFIER.verify
integer, moves = VERIFIER.integer, VERIFIER.moves
KIND = OutcomeKind
START = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1"
OPENING = "[e4, d5, exd5]"
PROMOTION = "8/P7/8/8/8/8/k6K/8 w - - 0 1"


@pytest.mark.parametrize(
    "text",
    [
        "57",
        " 57\n",
        "57.",
        "57.0",
        "５７",
        "[57]",
        "**57**",
        "solution = 57",
        "**solution = 57**",
        "Solution: 57 moves",
        "At first solution = 56, but one more is needed.\n\nsolution = 57",
        "The knight needs 57 moves.",
        "\\boxed{57}",
        '{"solution": 57}',
    ],
)
def test_a_number_is_read(text):
    assert tour(text, "57") == (KIND.CORRECT, 1.0)


@pytest.mark.parametrize("text", ["56", "solution = 58", "570", "0"])
def test_another_number_is_wrong(text):
    assert tour(text, "57") == (KIND.WRONG, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "many",
        "-57",
        "57.5",
        "215 + 3",
        "solution = 215 + 3",
        "9" * 7,
        "57/1",
        "57 or 58",
        "between 56 and 57",
        "solution = <integer>",
        "NaN",
        "1e400",
    ],
)
def test_no_number_or_several_is_an_invalid_format(text):
    assert tour(text, "57") == (KIND.INVALID_FORMAT, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "[e4, d5, exd5]",
        '["e4", "d5", "exd5"]',
        "solution = [e4, d5, exd5]",
        "solution = ['e4', 'd5', 'ed5']",
        "solution = [a4, b5, axb5] no,\n\nsolution =\n[e4, d5, exd5]",
        '{"solution": ["e4", "d5", "exd5"]}',
        "\\boxed{[e4, d5, exd5]}",
        "e4 d5 exd5",
        "e4, d5, e4xd5",
        "1. e4 d5 2. exd5",
        "1.e4, d5, 2.exd5!?",
        "e2e4, d7d5, e4d5",
        "e4+, d5#, exd5!!",
    ],
)
def test_a_line_is_read_in_any_common_spelling(text):
    assert line(text, OPENING, START) == (KIND.CORRECT, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "[d5, e4, exd5]",
        "[e4, exd5, d5]",
        "[e4, d5, d4]",
        "[e4, d5, exf5]",
        "[d4, d5, exd5]",
        "[e4, d5, Bxd5]",
        "[e5, d5, exd5]",
    ],
)
def test_another_order_another_move_or_an_illegal_one_is_wrong(text):
    assert line(text, OPENING, START) == (KIND.WRONG, 0.0)


@pytest.mark.parametrize(
    "text", ["[e4, d5]", "[e4, d5, exd5, Qxd5]", "[]", "hello", "[e4, d5, mate]", "[1, 2, 3]", "[e9, d5, exd5]"]
)
def test_what_is_no_list_of_three_moves_is_an_invalid_format(text):
    assert line(text, OPENING, START) == (KIND.INVALID_FORMAT, 0.0)


@pytest.mark.parametrize("text", ["a8=Q", "a8Q", "a8(Q)", "a8/Q", "a8=q+", "a7a8q", "♙a8=♕"])
def test_a_promotion_is_read_in_any_form_and_its_piece_counts(text):
    assert line(text, "[a8=Q]", PROMOTION) == (KIND.CORRECT, 1.0)
    assert line(text, "[a8=R]", PROMOTION) == (KIND.WRONG, 0.0)


def test_castling_in_passing_and_needless_files_are_read():
    assert line("0-0", "[O-O]", "4k3/8/8/8/8/8/8/4K2R w K - 0 1") == (KIND.CORRECT, 1.0)
    assert line("exd6 e.p.", "[exd6]", "4k3/8/8/3pP3/8/8/8/4K3 w - d6 0 1") == (KIND.CORRECT, 1.0)
    assert line("Nb1c3, Ng8f6, e2-e4", "[Nc3, Nf6, e4]", START) == (KIND.CORRECT, 1.0)


def test_a_move_that_two_pieces_can_make_names_none():
    assert line("Nd2", "[Nbd2]", "4k3/8/8/8/8/5N2/8/1N2K3 w - - 0 1") == (KIND.WRONG, 0.0)


QUESTIONS = {
    "0": {"template": "knight_path", "prompt": "..."},
    "1": {"template": "best_3_moves", "prompt": f"You are given a chess position using this FEN: {START}\nGive the 3"},
    "2": {"template": "knight_path", "prompt": "..."},
}
GOLD = {"0": "57", "1": OPENING, "2": "7"}


def judged(folder, text):
    (folder / "submission.csv").write_text(text, encoding="utf-8")
    return {outcome.unit: outcome for outcome in verify(folder, GOLD, QUESTIONS)}


def test_a_submission_is_judged_by_the_kind_of_each_question(tmp_path):
    found = judged(tmp_path, 'id,answer\n0,57\n1,"[e4, d5, exd5]"\n2,\n9,57\n')
    assert {unit: outcome.kind for unit, outcome in found.items()} == {"0": KIND.CORRECT, "1": KIND.CORRECT}
    assert found["1"].prediction == "[e4, d5, exd5]"


def test_a_right_answer_sent_twice_earns_nothing(tmp_path):
    found = judged(tmp_path, "id,answer\n" + "0,57\n" * 50 + "2,7\n")
    assert (found["0"].kind, found["2"].kind) == (KIND.INVALID_FORMAT, KIND.CORRECT)


def test_no_file_is_no_answer_and_a_foreign_file_is_an_invalid_format(tmp_path):
    assert verify(tmp_path, GOLD, QUESTIONS) == []
    assert {outcome.kind for outcome in judged(tmp_path, "nonsense").values()} == {KIND.INVALID_FORMAT}


WORDS = [
    "solution",
    "=",
    "[",
    "]",
    "e4",
    "d5",
    "exd5",
    ",",
    "57",
    "1.",
    "O-O",
    "--",
    "@",
    "\n",
    "0000",
    "a8=Q",
    "Z0",
    "(",
    '"',
    "N@e4",
]


@settings(deadline=None)
@given(st.text(max_size=2000) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_no_answer_breaks_the_verifier(text):
    assert tour(text, "57")[0] in {KIND.CORRECT, KIND.WRONG, KIND.INVALID_FORMAT}
    assert line(text, OPENING, START)[0] in {KIND.CORRECT, KIND.WRONG, KIND.INVALID_FORMAT}


@settings(deadline=None)
@given(st.integers(0, 999_999), st.text(alphabet="xyz \n.,", max_size=50))
def test_a_stated_number_is_found_after_any_prose(number, prose):
    assert integer(f"{prose}\nsolution = {number}") == number


@pytest.mark.parametrize(
    "text", ["solution = " * 100_000, "[" * 500_000, "e4, " * 300_000, "1 " * 500_000, "solution=[" * 90_000]
)
def test_a_huge_answer_is_cut_and_read_at_once(text):
    integer(text)
    moves(text)
