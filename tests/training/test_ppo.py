"""GAE against its definition as a sum, through several calls; the clipped value loss; standardised advantages."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import arrays

torch = pytest.importorskip("torch", reason="PPO's advantages and value loss are computed by torch")

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
    tensors = (torch.from_numpy(array) for array in (reward_bt, value_bt, mask_bt))
    advantage_bt, return_bt = (tensor.numpy() for tensor in generalised_advantages(*tensors, gamma=gamma, lam=lam))
    for row in range(rows):
        inside = mask_bt[row]
        expected = summed(reward_bt[row][inside], value_bt[row][inside], gamma, lam)
        assert advantage_bt[row][inside] == pytest.approx(expected, abs=1e-9)
        assert return_bt[row][inside] == pytest.approx(expected + value_bt[row][inside], abs=1e-9)
    assert not advantage_bt[~mask_bt].any()
    assert not return_bt[~mask_bt].any()


def test_lambda_one_is_the_return_minus_the_value_and_lambda_zero_one_step():
    reward_bt, value_bt = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.5, 0.9]])
    mask_bt = torch.ones_like(reward_bt)
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
    value_bt = torch.tensor([[1.0, 0.1, 5.0]], requires_grad=True)
    old_bt, return_bt = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    mask_bt = torch.tensor([[True, True, False]])
    loss = critic.loss(value_bt, old_bt, return_bt, mask_bt)
    # token 1 is right but ran ahead: clipped to 0.2, error 0.64; token 2 is within the clip range: error 0.81
    assert loss.item() == pytest.approx(0.5 * (0.64 + 0.81) / 2)
    loss.backward()
    assert value_bt.grad.tolist()[0] == pytest.approx([0.0, -0.45, 0.0]), "ahead of the clip range no gradient"


def test_value_losses_of_the_parts_of_a_step_add_up_to_the_loss_of_the_step():
    critic = ClippedValue(1.0, 0.2)
    random = torch.Generator().manual_seed(0)
    value_bt, old_bt, return_bt = (torch.randn(4, 5, generator=random) for _ in range(3))
    mask_bt = torch.rand(4, 5, generator=random) < 0.6
    parts = [
        critic.loss(value_bt[p], old_bt[p], return_bt[p], mask_bt[p]) * mask_bt[p].sum() / mask_bt.sum()
        for p in ([0], [1, 2, 3])
    ]
    assert sum(parts) == pytest.approx(critic.loss(value_bt, old_bt, return_bt, mask_bt))


def test_the_value_loss_of_no_token_is_zero():
    nothing = torch.zeros(2, 3)
    assert ClippedValue(0.1, 0.2).loss(nothing + 7, nothing, nothing, nothing).item() == 0


def test_a_value_head_learns_the_returns():
    """Gradient descent on a free value per token reaches its return, through the clips of several rollouts."""
    critic = ClippedValue(1.0, 0.2)
    value_bt = torch.zeros(1, 3, requires_grad=True)
    return_bt, mask_bt = torch.tensor([[1.0, 0.5, -1.0]]), torch.ones(1, 3)
    for _ in range(40):
        old_bt = value_bt.detach().clone()
        for _ in range(4):
            (slope_bt,) = torch.autograd.grad(critic.loss(value_bt, old_bt, return_bt, mask_bt), value_bt)
            value_bt.data -= 0.3 * slope_bt
    assert value_bt.detach().numpy() == pytest.approx(return_bt.numpy(), abs=1e-3)
