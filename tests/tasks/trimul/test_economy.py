"""What counted work is worth."""

import pytest
from cases import CORRECT, TIMED, small
from economy import cost, share

CASE = small(CORRECT[8])
ROWS = CASE.batch * CASE.n**2
LEAST = {
    "operations": 1,
    "moved": 8 * ROWS * CASE.dim,
    "half": 12 * ROWS * CASE.dim * CASE.hidden + 2 * ROWS * CASE.n * CASE.hidden,
    "tf32": 0,
    "plain": 0,
}


def test_the_least_work_is_worth_one():
    assert share(CASE, LEAST) == pytest.approx(1)


def test_counts_below_what_has_to_be_read_and_written_are_no_counts():
    assert share(CASE, LEAST | {"moved": LEAST["moved"] - 1}) == 0


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({"moved": 3 * LEAST["moved"]}, {}),
        ({"plain": 10**6}, {}),
        ({"half": 0, "tf32": LEAST["half"]}, {}),
        ({"half": 0, "plain": LEAST["half"]}, {"half": 0, "tf32": LEAST["half"]}),
    ],
)
def test_more_work_is_worth_less(more, less):
    assert share(CASE, LEAST | more) < share(CASE, LEAST | less)
    assert cost(LEAST | more) > cost(LEAST | less)


def test_the_cases_are_those_of_the_competition():
    assert len(CORRECT) == 18
    assert [(case.n, case.batch, case.dim, case.masked, case.distribution) for case in TIMED] == [
        (256, 2, 128, False, "normal"),
        (768, 1, 128, False, "cauchy"),
        (256, 2, 384, True, "normal"),
        (512, 1, 128, False, "normal"),
        (1024, 1, 128, False, "cauchy"),
        (768, 1, 384, True, "normal"),
        (1024, 1, 384, False, "normal"),
    ]
