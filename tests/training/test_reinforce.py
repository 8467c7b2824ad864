"""REINFORCE with the mean of the others as baseline."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from sia_runner.training.algorithms.base import online_algorithm
from sia_runner.training.algorithms.group_based import leave_one_out_advantages
from sia_runner.training.batch import collect_batch
from tests.training.trajectories import call, configured, groups, trajectory

REWARDS = some.lists(some.floats(-10, 10), min_size=2, max_size=16).map(np.array)


def test_by_hand():
    assert leave_one_out_advantages(np.array([1.0, 0.0, 0.0, 1.0])) == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])


@given(REWARDS)
def test_the_identity_with_the_mean_baseline(reward_g):
    """RLOO's advantage is the centred reward times G / (G - 1)."""
    count = len(reward_g)
    assert leave_one_out_advantages(reward_g) == pytest.approx(
        (reward_g - reward_g.mean()) * count / (count - 1), abs=1e-9
    )


@given(REWARDS)
def test_each_baseline_is_the_mean_of_the_others_and_all_sum_to_zero(reward_g):
    advantage_g = leave_one_out_advantages(reward_g)
    for index, advantage in enumerate(advantage_g):
        assert advantage == pytest.approx(reward_g[index] - np.delete(reward_g, index).mean(), abs=1e-9)
    assert advantage_g.sum() == pytest.approx(0, abs=1e-8)


def test_a_group_without_a_difference_stays_in_the_step_for_its_kl():
    signal = online_algorithm(configured("reinforce", kl_coefficient=0.1)).advantages(
        collect_batch(groups([0.1, 0.1, 0.1], [0.0, 1.0]))
    )
    assert signal.used_b.all()
    assert signal.advantage_bt[:, 0].tolist() == [0, 0, 0, -1, 1]


def test_a_group_that_failures_left_with_one_trajectory_has_no_signal():
    signal = online_algorithm(configured("reinforce")).advantages(collect_batch(groups([1.0, None, None])))
    assert not signal.advantage_bt.any()


def test_the_baseline_counts_trajectories_and_not_calls():
    long = trajectory(0.0, *[call((index,)) for index in range(5)])
    rolled = [long, trajectory(1.0, call((9,)), sample=1), trajectory(1.0, call((8,)), sample=2)]
    signal = online_algorithm(configured("reinforce")).advantages(collect_batch(rolled))
    assert signal.advantage_bt[:, 0].tolist() == [-1] * 5 + [0.5, 0.5]
