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
    lam: Fraction = 0.95  # GAE's lambda: 0 trusts the value head, 1 the rewards
    value_coefficient: Annotated[float, Field(gt=0)] = 0.1
    value_clip: Annotated[float, Field(gt=0)] = 0.2  # how far a value may move from the one at rollout time
    # Optimizer steps on each batch of rollouts. More steps save rollouts, but are unstable at the end: on the toy of
    # tests/training, 4 reach 0.98 with two thirds of the rollouts, and then sometimes fall to 0.91.
    iterations: Annotated[int, Field(ge=1)] = 1


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

        Advantages are standardised over the step's tokens. Raises TrainingError without the critic's values.
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
        gains = generalised_advantages(reward_nt, value_nt, mask_nt, self._options.gamma, self._options.lam)
        advantage_bt, return_bt = (gain.reshape(shape)[trajectory_b, batch.step_b] for gain in gains)
        tokens = advantage_bt[mask_bt]  # every row has some
        advantage_bt = np.where(mask_bt, (advantage_bt - tokens.mean()) / (tokens.std() + 1e-8), 0.0)
        return TrainingSignal(advantage_bt.astype(np.float32), used_b, return_bt.astype(np.float32))
