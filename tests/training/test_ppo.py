"""GAE against its definition as a sum, through several calls; the clipped value loss; standardised advantages."""

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
from tests.training.trajectories import call, configured, group, trajectory


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
    calls = call((1, 2)), call((3,)), call((4, 5, 6))
    batch = collect_batch([trajectory(1.0, *calls), trajectory(0.0, call((7,)), sample=1)])
    value_bt = np.array([[0.1, 0.2, 9], [0.3, 9, 9], [0.4, 0.5, 0.6], [0.7, 9, 9]])  # 9: padding, never read
    return_bt = made(gamma=0.9, lam=0.8).advantages(batch, value_bt).return_bt
    assert return_bt is not None
    value_t = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    expected = np.array(summed([0, 0, 0, 0, 0, 1.0], value_t, 0.9, 0.8)) + value_t
    assert return_bt[batch.mask_bt] == pytest.approx([*expected, 0.0], abs=1e-6)
    assert not return_bt[~batch.mask_bt].any()


def test_advantages_are_standardised_over_the_tokens_of_the_step():
    batch = collect_batch([*group([1.0, 0.0, 0.3]), trajectory(1.0, call((1, 2, 3)), call((4,)), unit="r")])
    value_bt = np.random.default_rng(0).normal(size=batch.mask_bt.shape)
    signal = made().advantages(batch, value_bt)
    inside = signal.advantage_bt[batch.mask_bt]
    assert (inside.mean(), inside.std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-5))
    assert not signal.advantage_bt[~batch.mask_bt].any()
    assert signal.used_b.all(), "a question with one trajectory has a signal, too: its value is the baseline"


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
