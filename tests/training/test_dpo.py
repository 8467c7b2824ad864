"""Which pairs are preferences."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sia_runner.errors import TrainingError
from sia_runner.training.algorithms.base import PreferencePair, offline_algorithm
from tests.training.trajectories import call, configured, group, groups, trajectory


def made(**options):
    return offline_algorithm(configured("dpo", kind="offline", kl_coefficient=0.1, options=options))


def pairs(trajectories, max_length=100, **options):
    """(chosen, rejected) by the second token: group() writes the number of the sample there."""
    rows = made(**options).select(trajectories, max_length)
    return [(row.chosen_ids[1], row.rejected_ids[1]) for row in rows]


def test_best_against_worst_first_then_their_neighbours():
    assert pairs(group([0.0, 3.0, 1.0, 2.0]), pairs=1) == [(1, 0)]
    assert pairs(group([0.0, 3.0, 1.0, 2.0]), pairs=3) == [(1, 0), (1, 2), (3, 0)]


def test_one_winner_meets_several_losers():
    assert pairs(group([0.0, 0.0, 1.0, 0.0]), pairs=2) == [(2, 3), (2, 1)]


@given(some.lists(some.integers(0, 3), min_size=2, max_size=8), some.integers(1, 6), some.integers(0, 2))
def test_the_chosen_reward_exceeds_the_rejected_one_by_the_margin_in_a_bounded_number_of_pairs(rewards, most, margin):
    found = pairs(group([float(reward) for reward in rewards]), pairs=most, margin=float(margin))
    assert all(rewards[chosen] - rewards[rejected] > margin for chosen, rejected in found)
    apart = sum(one - other > margin for one in rewards for other in rewards)
    assert len(found) == min(most, apart)


def test_pairs_are_of_one_question():
    assert pairs(groups([1.0, 1.0], [0.0, 0.0])) == []
    assert pairs(groups([1.0, 0.0], [0.0, 1.0])) == [(0, 1), (1, 0)]


def test_failures_are_never_rejected_for_it():
    assert pairs(group([None, 1.0, 1.0])) == []


def test_the_preference_is_at_the_fork():
    """Both trajectories begin alike; what differs after the fork answers different prompts."""
    start, good, bad = call((1,), prompt=(5,)), call((2,), prompt=(5, 1)), call((3,), prompt=(5, 1))
    rolled = [trajectory(1.0, start, good, call((4,), prompt=(9,))), trajectory(0.0, start, bad, sample=1)]
    assert made().select(rolled, max_length=100) == [PreferencePair((5, 1), (2,), (3,))]


def test_no_pair_where_the_prompts_differ_or_nothing_does():
    other = trajectory(0.0, call((2,), prompt=(8,)), sample=1)
    assert made().select([trajectory(1.0, call((1,), prompt=(5,))), other], max_length=100) == []
    assert made().select([trajectory(1.0, call((1,))), trajectory(0.0, call((1,)), sample=1)], max_length=100) == []


def test_a_pair_that_is_too_long_is_left_out_and_another_takes_its_place():
    rolled = [
        trajectory(2.0, call((1,) * 20)),
        trajectory(1.0, call((2, 2)), sample=1),
        trajectory(0.0, call((3, 3)), sample=2),
    ]
    assert pairs(rolled, max_length=10, pairs=1) == [(2, 3)]


def test_kl_is_dpos_beta():
    assert made(loss="ipo").settings == {"beta": 0.1, "loss": "ipo"}
    with pytest.raises(TrainingError, match="algorithm=dpo needs kl_coefficient above 0"):
        offline_algorithm(configured("dpo", kind="offline"))
