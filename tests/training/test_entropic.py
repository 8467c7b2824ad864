"""Entropic advantages against the published formula, and their bounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy.optimize import brentq
from scipy.special import logsumexp

from sia_runner.errors import TrainingError
from sia_runner.training.algorithms.base import online_algorithm
from sia_runner.training.algorithms.group_based import MAX_BETA, entropic_advantages, entropic_beta, kl_to_uniform
from sia_runner.training.batch import collect_batch
from tests.training.trajectories import configured, group, groups

REWARDS = some.lists(some.floats(-100, 100), min_size=4, max_size=64).map(np.array)


def divergence(beta, reward_g):
    """KL(q || uniform), q proportional to exp(beta r), from its definition."""
    logq = beta * reward_g - logsumexp(beta * reward_g)
    return float(np.sum(np.exp(logq) * (logq + math.log(len(reward_g)))))


def published(reward_g):
    """The formula of TTT-Discover, term by term, with scipy's root finder for beta."""
    beta = brentq(
        lambda beta: divergence(beta, reward_g) - math.log(2), 0, MAX_BETA, xtol=1e-13, rtol=1e-15, maxiter=500
    )
    e = [math.exp(beta * (reward - max(reward_g))) for reward in reward_g]
    others = [sum(e[:index] + e[index + 1 :]) / (len(e) - 1) for index in range(len(e))]
    return [one / (mean + 1e-12) - 1 for one, mean in zip(e, others, strict=True)]


def bound(count):
    """The largest advantage that KL <= ln 2 allows: one winner, all others alike."""

    def beyond(win):
        rest = (1 - win) / (count - 1)
        return win * math.log(win * count) + (count - 1) * rest * math.log(rest * count) - math.log(2)

    win = brentq(beyond, 1 / count + 1e-9, 1 - 1e-12)
    return win * (count - 1) / (1 - win) - 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [4, 5, 8, 64])
def test_equal_to_the_published_formula(count, seed):
    reward_g = np.random.default_rng(seed).normal(size=count) * 10.0 ** (seed % 5 - 2)
    assert entropic_advantages(reward_g) == pytest.approx(published(reward_g), abs=1e-6)


@pytest.mark.parametrize("count", [4, 8, 64])
def test_a_single_winner_is_bounded(count):
    reward_g = np.zeros(count)
    reward_g[2] = 1.0
    advantage_g = entropic_advantages(reward_g)
    assert advantage_g == pytest.approx(published(reward_g), abs=1e-6)
    assert advantage_g[2] == pytest.approx(bound(count), rel=1e-6)
    assert (np.delete(advantage_g, 2) < 0).all()


@pytest.mark.parametrize("winners", [2, 3])
def test_winners_that_share_half_of_the_group_are_bounded(winners):
    """KL stays below ln 2 whatever beta is, so beta is the cap and losers weigh nothing."""
    reward_g = np.array([1.0] * winners + [0.0] * (4 - winners))
    assert entropic_advantages(reward_g) == pytest.approx(
        [3 / (winners - 1) - 1] * winners + [-1.0] * (4 - winners), abs=1e-9
    )


def test_the_cap_of_the_temperature():
    assert entropic_beta(np.array([0.0, -1e-9, -1e-9, -1e-9])) == MAX_BETA
    assert np.abs(entropic_advantages(np.array([1.0, 1.0, 1.0, 1.0 - 1e-9]))).max() < 0.01


@given(REWARDS)
def test_bounds(reward_g):
    advantage_g = entropic_advantages(reward_g)
    assert np.isfinite(advantage_g).all()
    assert advantage_g.min() >= -1
    assert advantage_g.max() <= bound(len(reward_g)) * (1 + 1e-6)


@given(REWARDS)
def test_the_divergence_never_exceeds_its_target(reward_g):
    gap_g = reward_g - reward_g.max()
    beta = entropic_beta(gap_g)
    assert 0 <= beta <= MAX_BETA
    assert kl_to_uniform(beta * gap_g) <= math.log(2) + 1e-9


@given(REWARDS)
def test_a_better_reward_never_has_a_smaller_advantage(reward_g):
    assert (np.diff(entropic_advantages(np.sort(reward_g))) >= -1e-9).all()


@given(some.lists(some.integers(0, 9), min_size=4, max_size=16).map(np.array), some.sampled_from([0.5, 2, 1024]))
def test_only_relative_rewards_matter(reward_g, scale):
    """beta absorbs the unit of the reward, and a constant cancels; except where the cap on beta binds."""
    if (reward_g == reward_g.max()).sum() * 2 < len(reward_g):
        assert entropic_advantages(reward_g * scale + 7.0) == pytest.approx(
            entropic_advantages(reward_g * 1.0), abs=1e-5
        )


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_than_four_samples_are_refused_by_name(count):
    with pytest.raises(TrainingError, match=f"algorithm=entropic needs groups of at least 4 samples; given: {count}"):
        entropic_advantages(np.arange(count))


def test_a_configuration_of_fewer_samples_is_refused_too():
    with pytest.raises(ValueError, match="algorithm=entropic needs group_size of at least 4; given: 3"):
        configured("entropic", group_size=3)


def test_groups_without_a_signal_are_left_out_of_the_step():
    equal, differing, small = [0.5] * 4, [0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, None]
    signal = online_algorithm(configured("entropic")).advantages(collect_batch(groups(equal, differing, small)))
    assert signal.used_b.tolist() == [False] * 4 + [True] * 4 + [False] * 3
    assert not signal.advantage_bt[~signal.used_b].any()
    assert signal.advantage_bt[7] == pytest.approx(entropic_advantages(np.array(differing))[3])


def test_failures_that_leave_four_keep_the_group():
    signal = online_algorithm(configured("entropic", group_size=5)).advantages(
        collect_batch(group([0.0, None, 0.0, 1.0, 0.0]))
    )
    assert signal.used_b.all()
