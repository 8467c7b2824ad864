"""GAE against its definition as a sum, through several calls; values within the rewards; the clipped value loss."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays

from sia_runner.errors import TrainingError
from sia_runner.training.algorithms.base import online_algorithm
from sia_runner.training.algorithms.ppo import (
    ClippedValue,
    generalised_advantages,
)
from sia_runner.training.batch import collect_batch
from tests.training.trajectories import call, configured, group, groups, trajectory


def summed(reward_t, value_t, gamma, lam):
    """A_t = sum over k of (gamma lam)^k (r_{t+k} + gamma V_{t+k+1} - V_{t+k}), as an explicit sum."""
    steps = len(reward_t)
    after_t = [*value_t[1:], 0.0]
    delta_t = [reward_t[t] + gamma * after_t[t] - value_t[t] for t in range(steps)]
    return [sum((gamma * lam) ** (k - t) * delta_t[k] for k in range(t, steps)) for t in range(steps)]


FLOATS = some.floats(-3, 3)


@settings(deadline=None)
@given(some.data(), some.integers(1, 4), some.integers(1, 9), some.floats(0, 1), some.floats(0, 1))
def test_gae_is_the_explicit_sum_over_the_tokens_inside_the_mask(data, rows, tokens, gamma, lam):
    reward_bt = data.draw(arrays(np.float64, (rows, tokens), elements=FLOATS))
    value_bt = data.draw(arrays(np.float64, (rows, tokens), elements=FLOATS))
    mask_bt = data.draw(arrays(np.bool_, (rows, tokens)))
    advantage_bt, return_bt = generalised_advantages(reward_bt, value_bt, mask_bt, gamma, lam)
    for row in range(rows):
        inside = mask_bt[row]
        expected = summed(reward_bt[row][inside], value_bt[row][inside], gamma, lam)
        assert advantage_bt[row][inside] == pytest.approx(expected, abs=1e-9)
        assert return_bt[row][inside] == pytest.approx(expected + value_bt[row][inside], abs=1e-9)
    assert not advantage_bt[~mask_bt].any()
    assert not return_bt[~mask_bt].any()


def test_lambda_one_is_the_return_minus_the_value_and_lambda_zero_one_step():
    reward_bt, value_bt = np.array([[0.0, 0.0, 1.0]]), np.array([[0.2, 0.5, 0.9]])
    mask_bt = np.ones((1, 3), dtype=np.bool_)
    assert generalised_advantages(reward_bt, value_bt, mask_bt, 1.0, 1.0)[0].tolist()[0] == pytest.approx(
        [0.8, 0.5, 0.1]
    )
    assert generalised_advantages(reward_bt, value_bt, mask_bt, 1.0, 0.0)[0].tolist()[0] == pytest.approx(
        [0.3, 0.4, 0.1]
    )


def made(**options):
    return online_algorithm(configured("ppo", options=options))


def test_the_reward_comes_with_the_last_token_of_the_last_call_and_flows_back_through_all():
    """The critic's targets are discounted rewards; lambda is the policy's."""
    calls = call((1, 2)), call((3,)), call((4, 5, 6))
    batch = collect_batch([trajectory(1.0, *calls), trajectory(0.0, call((7,)), sample=1)])
    value_bt = np.array([[0.1, 0.2, 9], [0.3, 9, 9], [0.4, 0.5, 0.6], [0.7, 9, 9]])  # 9: padding, never read
    signal = made(gamma=0.9, lam=0.8).advantages(batch, value_bt)
    assert signal.return_bt is not None
    assert signal.return_bt[batch.mask_bt] == pytest.approx([*(0.9**k for k in (5, 4, 3, 2, 1, 0)), 0.0], abs=1e-6)
    gains = [*summed([0, 0, 0, 0, 0, 1.0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.9, 0.8), -0.7]
    expected = np.array(gains) / np.sqrt(np.mean(np.square(gains)))
    assert signal.advantage_bt[batch.mask_bt] == pytest.approx(expected, abs=1e-6)
    assert not signal.return_bt[~batch.mask_bt].any()


def test_advantages_are_divided_by_their_root_mean_square_over_the_step_and_not_centred():
    batch = collect_batch([*group([1.0, 1.0, 0.0]), trajectory(1.0, call((1, 2, 3)), call((4,)), unit="r")])
    signal = made().advantages(batch, np.full(batch.mask_bt.shape, 0.25))
    inside = signal.advantage_bt[batch.mask_bt]
    assert np.mean(np.square(inside)) == pytest.approx(1, abs=1e-5)
    right = np.array([reward == 1 for reward in batch.reward_n])[batch.trajectory_b]
    assert (signal.advantage_bt[right][batch.mask_bt[right]] > 0).all()
    assert (signal.advantage_bt[~right][batch.mask_bt[~right]] < 0).all()
    assert not signal.advantage_bt[~batch.mask_bt].any()
    assert signal.used_b.all(), "a question with one trajectory has a signal, too: its value is the baseline"


@pytest.mark.parametrize("value", [-3.0, 0.7, 5.0])
def test_where_every_reward_is_the_same_the_critics_error_is_no_advantage(value):
    batch = collect_batch(groups([1.0, 1.0], [1.0, 1.0]))
    for gamma in (1.0, 0.9):
        signal = made(gamma=gamma).advantages(batch, np.full(batch.mask_bt.shape, value))
        assert not signal.advantage_bt.any()
        assert signal.return_bt is not None
        assert signal.return_bt[:, -1] == pytest.approx(1), "the critic learns nevertheless"


@pytest.mark.parametrize(("gamma", "lowest"), [(1.0, 2.0), (0.9, 0.0)])
def test_values_beyond_the_rewards_of_the_batch_are_taken_for_the_nearest_reward(gamma, lowest):
    """A discounted reward may be worth anything down to 0."""
    batch = collect_batch(group([2.0, 3.0]))
    algorithm = made(gamma=gamma)
    wild = algorithm.advantages(batch, np.array([[9.0, 9.0], [-7.0, -7.0]])).advantage_bt
    near = algorithm.advantages(batch, np.array([[3.0, 3.0], [lowest, lowest]])).advantage_bt
    assert np.array_equal(wild, near)
    assert wild.any()


def test_a_critic_that_is_right_everywhere_leaves_nothing_to_learn():
    batch = collect_batch(group([0.5, 0.5]))
    signal = made().advantages(batch, np.full(batch.mask_bt.shape, 0.5))
    assert signal.advantage_bt == pytest.approx(0)


def test_without_the_critics_values_it_says_so():
    with pytest.raises(TrainingError, match="algorithm=ppo"):
        made().advantages(collect_batch(group([0.0, 1.0])))


def test_the_value_loss_takes_the_worse_of_the_value_and_the_clipped_value():
    critic = ClippedValue(coefficient=0.1, clip=0.2)
    value_bt, mask_bt = np.array([[1.1, 0.1, -0.5, 5.0]]), np.array([[True, True, True, False]])
    old_bt, return_bt = np.zeros((1, 4)), np.array([[1.0, 1.0, 1.0, 0.0]])
    # Token 1 ran ahead of its clip at 0.2, which is worse: it stands still. Token 2 is within the clip range. Token 3
    # ran away, and is worse than its clip: it is drawn back. A step of 30 tokens, of which these are a part.
    weight_bt = critic.weights(value_bt, old_bt, return_bt, mask_bt, 30)
    assert weight_bt.tolist()[0] == pytest.approx([0.0, 0.1 / 30 * -0.9, 0.1 / 30 * -1.5, 0.0])


def test_the_weights_are_the_gradient_of_the_clipped_square_by_autograd():
    torch = pytest.importorskip("torch", reason="the oracle is torch's")
    random = np.random.default_rng(0)
    value_bt, old_bt, return_bt = random.normal(size=(3, 40, 9)) * 0.4
    mask_bt = random.random((40, 9)) < 0.7
    value, old, target = (torch.from_numpy(array) for array in (value_bt, old_bt, return_bt))
    value.requires_grad_()
    near = old + (value - old).clamp(-0.2, 0.2)
    error = torch.maximum((value - target) ** 2, (near - target) ** 2)
    loss = 0.5 * (error * torch.from_numpy(mask_bt)).sum() / mask_bt.sum()
    (slope,) = torch.autograd.grad(3.0 * loss, value)
    within = np.abs(value_bt - old_bt) <= 0.2
    assert within.any() and (~within).any()
    weight_bt = ClippedValue(3.0, 0.2).weights(value_bt, old_bt, return_bt, mask_bt, int(mask_bt.sum()))
    assert weight_bt == pytest.approx(slope.numpy(), abs=1e-12)


def test_a_step_without_tokens_moves_no_value():
    nothing_bt = np.zeros((2, 3))
    assert not ClippedValue(0.1, 0.2).weights(nothing_bt + 7, nothing_bt, nothing_bt, nothing_bt > 0, 0).any()


def test_a_value_head_learns_the_returns():
    """Gradient descent on a free value per token reaches its return, through the clips of several rollouts."""
    critic = ClippedValue(1.0, 0.2)
    value_bt, mask_bt = np.zeros((1, 3)), np.ones((1, 3), dtype=np.bool_)
    return_bt = np.array([[1.0, 0.5, -1.0]])
    for _ in range(40):
        old_bt = value_bt.copy()
        for _ in range(4):
            value_bt = value_bt - 0.3 * critic.weights(value_bt, old_bt, return_bt, mask_bt, 3)
    assert value_bt == pytest.approx(return_bt, abs=1e-3)
