"""Whose clock counts: a kernel's own times are believed only as far as ours agrees with them."""

import pytest
from judge import MARGIN, Run, geometric_mean, slack, summed_up

SLACK = 400.0  # microseconds that an honest program needs around a kernel


def runs(own, around, count=5):
    return [Run("", own + k + around, own + k) for k in range(count)]


def test_own_times_that_agree_with_our_clock_are_believed():
    timing = summed_up(runs(1000, SLACK), SLACK)
    assert timing.believed
    assert timing.mean == pytest.approx(1002)


@pytest.mark.parametrize("own", [1.0, 500.0, 0.0, 1e6])
def test_a_patched_timer_makes_our_clock_count_all_of_it(own):
    honest = 1000.0
    forged = [Run("", honest + SLACK, own) for _ in range(5)]
    timing = summed_up(forged, SLACK)
    assert not timing.believed
    assert timing.mean == pytest.approx(honest + SLACK)


def test_what_can_be_shaved_off_unseen_is_the_margin():
    forged = [Run("", 1000 + SLACK, 1000 - MARGIN) for _ in range(5)]
    assert summed_up(forged, SLACK).believed
    assert not summed_up([Run("", 1000 + SLACK, 999 - MARGIN) for _ in range(5)], SLACK).believed


def test_one_slow_moment_of_the_machine_is_no_proof_against_a_kernel():
    assert summed_up([*runs(1000, SLACK), Run("", 9000.0, 1000.0)], SLACK).believed


def test_slack_is_what_is_left_of_an_empty_kernel():
    assert slack([Run("", 410.0, 10.0), Run("", 405.0, 5.0), Run("", 900.0, 5.0)]) == 400.0


def test_geometric_mean():
    assert geometric_mean([1.0, 100.0, 10.0]) == pytest.approx(10)
