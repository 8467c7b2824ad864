"""PPO (Schulman et al. 2017, arXiv 1707.06347): a value head assigns credit to single tokens and calls."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from sia_runner.config.training import AlgorithmConfig, Fraction
from sia_runner.errors import TrainingError
from sia_runner.selection.algorithm_choice import FloatArray
from sia_runner.training.algorithms.base import STRICT_OPTIONS, TrainingSignal, policy_loss, read_options
from sia_runner.training.batch import BoolArray, RolloutBatch


def generalised_advantages(
    reward_bt: FloatArray, value_bt: FloatArray, mask_bt: BoolArray, gamma: float, lam: float
) -> tuple[FloatArray, FloatArray]:
    """Return advantages and returns (advantage + value: the critic's targets), both of shape (b, t).

    A_t = sum_k (gamma lam)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t (equations 11 and 16); V = 0 after the
    last token. Positions outside the mask (padding, tokens that the policy did not sample) are skipped: they have
    advantage and return 0, and take no step of the discount.
    """
    advantage_bt = np.zeros(value_bt.shape)
    next_value_b = np.zeros(len(value_bt))
    running_b = np.zeros(len(value_bt))
    for t in reversed(range(value_bt.shape[1])):
        token_b = mask_bt[:, t]
        delta_b = reward_bt[:, t] + gamma * next_value_b - value_bt[:, t]
        running_b = np.where(token_b, delta_b + gamma * lam * running_b, running_b)
        next_value_b = np.where(token_b, value_bt[:, t], next_value_b)
        advantage_bt[:, t] = np.where(token_b, running_b, 0.0)
    return advantage_bt, np.where(mask_bt, advantage_bt + value_bt, 0.0)


@checked(frozen=True, config=STRICT_OPTIONS)
class PpoOptions:
    """The options of PPO."""

    gamma: Fraction = 1.0  # discount per token
    lam: Fraction = 0.95  # GAE's lambda for the policy: 0 trusts the value head, 1 the rewards
    value_coefficient: Annotated[float, Field(gt=0)] = 0.1
    # How far a value may move from the one at rollout time, in standard deviations of the rewards.
    value_clip: Annotated[float, Field(gt=0)] = 0.2
    iterations: Annotated[int, Field(ge=1)] = 1  # optimizer steps on each batch of rollouts


@dataclass(frozen=True, slots=True)
class ClippedValue:
    """The value loss with clipping."""

    coefficient: float
    clip: float

    def weights(
        self, value_bt: FloatArray, old_value_bt: FloatArray, return_bt: FloatArray, mask_bt: BoolArray, tokens: int
    ) -> FloatArray:
        """Return the gradient of `coefficient` times half the mean of the larger squared error, as TRL has it.

        The errors are those of the value and of the value clipped to `clip` around the old one. Where the clipped one
        is larger it stands still: no gradient.
        """
        error_bt, move_bt = value_bt - return_bt, value_bt - old_value_bt
        clipped_error_bt = old_value_bt + np.sign(move_bt) * self.clip - return_bt
        moves_bt = mask_bt & ((np.abs(move_bt) <= self.clip) | (np.abs(error_bt) >= np.abs(clipped_error_bt)))
        return np.where(moves_bt, self.coefficient / max(tokens, 1) * error_bt, 0.0)


class Ppo:
    """PPO with a critic."""

    def __init__(self, algorithm: AlgorithmConfig) -> None:
        """Read the options. Raises TrainingError for wrong ones."""
        self._options = read_options(PpoOptions, algorithm)
        self.loss = policy_loss(algorithm, iterations=self._options.iterations)
        self.critic = ClippedValue(self._options.value_coefficient, self._options.value_clip)

    def advantages(self, batch: RolloutBatch, value_bt: NDArray[Any] | None = None) -> TrainingSignal:
        """Return GAE over all tokens of a trajectory, through all its calls, with the reward at its last token.

        Values are clipped to the rewards of the batch, where the values of terminal rewards lie: what the critic errs
        beyond them is no advantage, and none at all is left where every reward is the same. Advantages are divided by
        their root mean square over the step's tokens; centring would push down right answers in a batch of mostly right
        ones. The critic's targets are the discounted rewards themselves (lambda 1), which reach the first token of a
        long completion also while its values are wrong (VC-PPO: Yuan et al. 2025, arXiv 2503.01491, section 4.2).
        Raises TrainingError without the critic's values.
        """
        if value_bt is None:
            raise TrainingError("algorithm=ppo needs the critic's values")
        used_b = np.ones(len(batch.rows), dtype=np.bool_)
        if not batch.rows:
            nothing_bt = batch.broadcast(batch.reward_n)
            return TrainingSignal(nothing_bt, used_b, nothing_bt)
        # The rows of a trajectory are concatenated (n trajectories, t calls * tokens, zeros where one has fewer calls),
        # so that value flows from a call back to the one before. Trajectories without rows are left out.
        present, trajectory_b = np.unique(batch.trajectory_b, return_inverse=True)
        reward_n, mask_bt = batch.reward_n[present], batch.mask_bt
        shape = (len(present), int(batch.step_b.max()) + 1, mask_bt.shape[1])
        joined = {"mask": np.zeros(shape, dtype=np.bool_), "value": np.zeros(shape)}
        joined["mask"][trajectory_b, batch.step_b], joined["value"][trajectory_b, batch.step_b] = mask_bt, value_bt
        mask_nt, value_nt = (array.reshape(len(present), -1) for array in joined.values())
        last_n = mask_nt.shape[1] - 1 - mask_nt[:, ::-1].argmax(axis=1)
        reward_nt = np.zeros(mask_nt.shape)
        reward_nt[np.arange(len(present)), last_n] = reward_n
        options, bounds = self._options, [reward_n.min(), reward_n.max()]
        if options.gamma < 1:
            bounds.append(0.0)  # what a reward is worth long before it comes
        value_nt = value_nt.clip(min(bounds), max(bounds))
        gain_nt, _ = generalised_advantages(reward_nt, value_nt, mask_nt, options.gamma, options.lam)
        _, target_nt = generalised_advantages(reward_nt, value_nt, mask_nt, options.gamma, 1.0)
        if spread := np.ptp(reward_n):
            gain_nt = gain_nt / (np.sqrt(np.mean(gain_nt[mask_nt] ** 2)) + 1e-8 * spread)  # every row has tokens
        else:
            gain_nt = np.zeros_like(gain_nt)
        advantage_bt, return_bt = (
            array_nt.reshape(shape)[trajectory_b, batch.step_b] for array_nt in (gain_nt, target_nt)
        )
        return TrainingSignal(advantage_bt.astype(np.float32), used_b, return_bt)
