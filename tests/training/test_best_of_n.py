"""Which trajectories are cloned."""

import pytest

from sia_runner.errors import TrainingError
from sia_runner.training.algorithms.base import SupervisedExample, offline_algorithm
from tests.training.trajectories import call, configured, group, groups, trajectory


def made(**options):
    return offline_algorithm(configured("best_of_n", kind="offline", options=options))


def kept(trajectories, max_length=100, **options):
    """The second token of each row: group() writes the number of the sample there."""
    return [row.completion_ids[1] for row in made(**options).select(trajectories, max_length)]


def test_the_best_trajectory_of_every_question_whose_best_is_above_the_lowest_reward():
    """RAFT's rule: questions that all samples got right hold what the policy can do."""
    assert kept(groups([0.1, 0.9, 0.5], [0.0, 0.0, 1.0])) == [1, 2]
    assert kept(groups([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0])) == [0, 1]
    assert kept(groups([-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0])) == [1, 0], "in any unit"


def test_rewards_that_are_all_equal_give_nothing():
    for reward in (0.0, 0.1, 1.0):
        assert kept(groups([reward] * 3, [reward] * 3)) == []


def test_a_threshold_takes_what_is_good_enough_in_easy_questions_too():
    assert kept(groups([1.0, 1.0], [0.0, 0.4]), threshold=0.5) == [0]


def test_several_are_kept_best_first_and_equal_ones_by_sample():
    assert kept(group([0.5, 0.0, 0.8, 0.8, 0.0]), keep=3) == [2, 3, 0]


def test_every_call_of_the_chosen_trajectory_is_a_row():
    first, second = call((1, 1), prompt=(5,)), call((2, 2), prompt=(5, 1, 1, 6))
    rows = made().select([trajectory(1.0, first, second), trajectory(0.0, sample=1)], max_length=100)
    assert rows == [SupervisedExample((5,), (1, 1)), SupervisedExample((5, 1, 1, 6), (2, 2))]


def test_the_same_row_comes_once():
    same = call((1, 1))
    rolled = [trajectory(reward, same, sample=index) for index, reward in enumerate([1.0, 1.0, 0.0])]
    assert len(made(keep=2).select(rolled, max_length=100)) == 1


def test_rows_that_are_too_long_or_empty_are_left_out():
    rolled = [trajectory(1.0, call((1,) * 8), call(()), call((2, 2))), trajectory(0.0, sample=1)]
    assert made().select(rolled, max_length=10) == [SupervisedExample((1, 2, 3), (2, 2))]


def test_failures_have_no_part():
    assert kept(group([None, 0.2, 0.4])) == [2]
    assert kept(group([None, 0.4, 0.4])) == []


def test_a_kl_weight_is_refused_because_it_would_do_nothing():
    with pytest.raises(TrainingError, match=r"algorithm=best_of_n has no KL term.*kl_coefficient.*0\.1"):
        offline_algorithm(configured("best_of_n", kind="offline", kl_coefficient=0.1))
