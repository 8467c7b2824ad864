"""Trajectories become rows: one per model call; groups and rewards stay with the trajectories."""

import pytest

from sia_runner.errors import TrainingError
from sia_runner.training.batch import collect_batch
from tests.training.trajectories import call, group, groups, trajectory


def test_one_row_per_call_in_order():
    first, second, third = call((1,)), call((2, 2)), call((3, 3, 3))
    batch = collect_batch([trajectory(0.5, third, unit="b"), trajectory(1.0, first, second, unit="a")])
    assert batch.rows == (first, second, third)
    assert batch.trajectory_b.tolist() == [0, 0, 1]
    assert batch.step_b.tolist() == [0, 1, 0]
    assert batch.reward_n.tolist() == [1.0, 0.5]
    assert batch.mask_bt.tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_groups_are_questions_whatever_the_order_of_arrival():
    rolled = groups([0.0, 1.0], [0.2, 0.3, 0.4])
    batch = collect_batch(rolled[::-1])
    assert batch.trajectories == tuple(rolled)
    assert [batch.reward_n[group].tolist() for group in batch.groups()] == [[0.0, 1.0], [0.2, 0.3, 0.4]]


def test_the_share_of_questions_without_a_difference():
    assert collect_batch(groups([0.0, 1.0], [0.3, 0.3], [0.2, 0.2], [1.0, 0.9])).equal_reward_share() == 0.5
    assert collect_batch(groups([0.0, 1.0], [0.5, None])).equal_reward_share() == 0, (
        "a single sample can have no difference"
    )


def test_single_samples_are_alike_when_all_questions_got_the_same_reward():
    assert collect_batch(groups([0.0], [1.0])).equal_reward_share() == 0
    assert collect_batch(groups([1.0], [1.0])).equal_reward_share() == 1


def test_a_value_per_trajectory_reaches_all_its_tokens_and_no_padding():
    batch = collect_batch([trajectory(1.0, call((1,)), call((2, 2))), trajectory(0.0, call((3,)), sample=1)])
    spread = batch.broadcast(batch.reward_n + 1)
    assert spread.tolist() == [[2, 0], [2, 2], [1, 0]]


def test_an_infrastructure_failure_is_left_out_and_not_a_zero():
    batch = collect_batch(group([1.0, None, 0.0]))
    assert batch.reward_n.tolist() == [1.0, 0.0]
    assert (batch.failed, batch.long) == (1, 0)


def test_a_trajectory_without_calls_counts_in_its_group_only():
    silent = trajectory(0.0, sample=1)
    silent = type(silent)(silent.unit, silent.sample, (), silent.reward, silent.kind)
    batch = collect_batch([trajectory(1.0), silent])
    assert len(batch.rows) == 1
    assert batch.reward_n.tolist() == [1.0, 0.0]


def test_empty_and_long_calls_have_no_row_and_long_ones_are_counted():
    fits, empty, long = call((7,) * 7), call(()), call((8,) * 8)
    batch = collect_batch([trajectory(1.0, fits, empty, long)], max_length=10)
    assert batch.rows == (fits,)
    assert (batch.failed, batch.long) == (0, 1)


def test_nothing_to_train_on_is_an_empty_batch():
    batch = collect_batch(group([None, None]))
    assert (len(batch.rows), batch.mask_bt.shape, list(batch.groups())) == (0, (0, 0), [])


def test_a_reward_that_is_no_number_is_refused():
    with pytest.raises(TrainingError, match="question q, sample 1.*inf"):
        collect_batch(group([0.0, float("inf")]))
