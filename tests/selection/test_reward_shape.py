"""Statistics of rewards, measured from trajectories."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import skew

from sia_runner.errors import TrainingError
from sia_runner.records import OutcomeKind, SampledCall, Trajectory
from sia_runner.selection.algorithm_choice import RewardShape, measure_shape

CALL = SampledCall((1, 2, 3), (4, 5), (-0.1, -0.2), "stop", "base")


def rolled(rewards_by_question, calls=1):
    return [
        Trajectory(f"q{q}", sample, (CALL,) * calls, reward, OutcomeKind.CORRECT)
        for q, rewards in enumerate(rewards_by_question)
        for sample, reward in enumerate(rewards)
    ]


def test_moments_are_those_of_the_sample():
    rewards = [[0.0, 0.3, 0.1], [0.9, 0.0, 0.2]]
    shape = measure_shape(rolled(rewards), seconds=12)
    flat = np.array(rewards).ravel()
    assert (shape.n, shape.groups, shape.samples, shape.distinct) == (6, 2, 3, 5)
    assert shape.mean == pytest.approx(flat.mean())
    assert shape.variance == pytest.approx(flat.var())
    assert shape.skew == pytest.approx(skew(flat))
    assert (shape.lowest, shape.highest) == (0.0, 0.9)


def test_shares_of_trajectories_and_of_groups():
    shape = measure_shape(rolled([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.0]]), seconds=1)
    assert (shape.zero_share, shape.one_share, shape.graded_share) == (4 / 8, 3 / 8, 1 / 8)
    assert (shape.lowest_share, shape.highest_share) == (4 / 8, 3 / 8)
    assert (shape.zero_groups, shape.equal_groups) == (1 / 4, 2 / 4)


def test_of_many_rewards_the_farthest_is_moved_to_the_next_one():
    rewards = [[float(n) for n in range(q, q + 4)] for q in range(8)]  # 0 to 10
    rewards[3][1] = 1e6
    shape = measure_shape(rolled(rewards), seconds=1)
    assert (shape.highest, shape.distinct, shape.highest_share) == (1e6, 10, 2 / 32), "1 to 10"
    assert abs(shape.skew) < 0.5


@pytest.mark.parametrize(
    ("rewards", "shares"),
    [
        ([0.0] * 31 + [1.0], (31 / 32, 1 / 32)),
        ([0.0] + [1.0] * 31, (1 / 32, 31 / 32)),
        ([-99.0] + [0.0] * 30 + [1.0], (31 / 32, 1 / 32)),
        ([0.0] + [1.0] * 30 + [99.0], (1 / 32, 31 / 32)),
    ],
)
def test_a_single_success_or_failure_is_no_outlier(rewards, shares):
    shape = measure_shape(rolled([rewards[start : start + 4] for start in range(0, 32, 4)]), seconds=1)
    assert (shape.lowest_share, shape.highest_share) == shares


def test_a_shape_of_an_earlier_version_is_of_rewards_between_0_and_1():
    stored = asdict(measure_shape(rolled([[0.0, 0.0], [1.0, 0.0]]), seconds=1))
    del stored["lowest_share"], stored["highest_share"]
    shape = RewardShape.from_json(stored)
    assert (shape.lowest_share, shape.highest_share) == (3 / 4, 1 / 4)


def test_cost_and_density_per_trajectory():
    shape = measure_shape(rolled([[0.0, 1.0]], calls=3), seconds=10)
    assert (shape.calls, shape.tokens, shape.seconds) == (3, 15, 5)


def test_an_infrastructure_failure_is_no_zero():
    shape = measure_shape(rolled([[1.0, None], [1.0, None]]), seconds=8)
    assert (shape.n, shape.failed, shape.mean, shape.zero_share) == (2, 2, 1.0, 0.0)
    assert shape.seconds == 2, "a failed rollout took its time, too"


@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0])
def test_equal_rewards_have_no_variance_whatever_rounding_does(reward):
    shape = measure_shape(rolled([[reward] * 3] * 3), seconds=1)
    assert (shape.variance, shape.skew, shape.between_share, shape.equal_groups) == (0, 0, 0, 1)


def test_variance_between_questions_tells_scores_from_ranks():
    assert measure_shape(rolled([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0]]), seconds=1).between_share == pytest.approx(
        0, abs=1e-12
    )
    assert measure_shape(rolled([[0.0, 0.0], [1.0, 1.0]]), seconds=1).between_share == pytest.approx(1)
    assert measure_shape(rolled([[0.0, 1.0], [1.0, 1.0]]), seconds=1).between_share == pytest.approx(1 / 3)


def test_groups_count_by_their_size():
    """A failure leaves groups of different sizes; here a reward depends on its question alone."""
    assert measure_shape(rolled([[0.0, 0.0, 0.0], [1.0, None, None]]), seconds=1).between_share == pytest.approx(1)


def test_nothing_measured_is_said_and_json_goes_both_ways():
    empty = measure_shape(rolled([[None, None]]), seconds=1)
    assert (empty.n, empty.failed) == (0, 2)
    for shape in (empty, measure_shape(rolled([[0.0, 1.0]]), seconds=1)):
        assert RewardShape(**json.loads(json.dumps(asdict(shape)))) == shape


def test_a_reward_that_is_no_number_is_refused():
    with pytest.raises(TrainingError, match="question q0, sample 1.*nan"):
        measure_shape(rolled([[0.0, float("nan")]]), seconds=1)
