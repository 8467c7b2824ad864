"""PPO (Schulman et al. 2017, arXiv 1707.06347): a value head assigns credit to single tokens and calls."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from sia_runner.config.training import AlgorithmConfig, Fraction
from sia_runner.errors import TrainingError
from sia_runner.training.algorithms.base import STRICT_OPTIONS, PolicyLoss, TrainingSignal, policy_loss, read_options
from sia_runner.training.batch import RolloutBatch


def generalised_advantages(reward_bt: Any, value_bt: Any, mask_bt: Any, gamma: float, lam: float) -> tuple[Any, Any]:
    """Return advantages and returns (advantage + value: the critic's targets), torch tensors of shape (b, t).

    A_t = sum_k (gamma lam)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t (equations 11 and 16); V = 0 after the
    last token. Positions outside the mask (padding, tokens that the policy did not sample) are skipped: they have
    advantage and return 0, and take no step of the discount.
    """
    import torch

    advantage_bt = torch.zeros_like(value_bt)
    next_value_b = torch.zeros_like(value_bt[:, 0])
    running_b = torch.zeros_like(next_value_b)
    for t in reversed(range(value_bt.shape[1])):
        token_b = mask_bt[:, t].bool()
        delta_b = reward_bt[:, t] + gamma * next_value_b - value_bt[:, t]
        running_b = torch.where(token_b, delta_b + gamma * lam * running_b, running_b)
        next_value_b = torch.where(token_b, value_bt[:, t], next_value_b)
        advantage_bt[:, t] = torch.where(token_b, running_b, 0.0)
    return advantage_bt, torch.where(mask_bt.bool(), advantage_bt + value_bt, 0.0)


@dataclass(frozen=True, slots=True)
class ConcatenatedCalls:
    """The rows of a trajectory concatenated, so that value flows from a call back to the one before."""

    trajectory_b: NDArray[np.intp]  # renumbered: only trajectories that have rows
    step_b: NDArray[np.intp]
    reward_n: NDArray[Any]

    @staticmethod
    def of(batch: RolloutBatch) -> "ConcatenatedCalls":
        """Return the chain of a batch."""
        present, trajectory_b = np.unique(batch.trajectory_b, return_inverse=True)
        return ConcatenatedCalls(trajectory_b, batch.step_b, batch.reward_n[present])

    def join(self, array_bt: NDArray[Any]) -> NDArray[Any]:
        """Reshape (rows, tokens) to (trajectories, calls * tokens), zeros where a trajectory has fewer calls."""
        tokens = array_bt.shape[1]
        calls = int(self.step_b.max(initial=0)) + 1
        joined = np.zeros((len(self.reward_n), calls, tokens), dtype=array_bt.dtype)
        joined[self.trajectory_b, self.step_b] = array_bt
        return joined.reshape(len(self.reward_n), calls * tokens)

    def split(self, array_nt: NDArray[Any]) -> NDArray[Any]:
        """Reverse `join`."""
        calls = int(self.step_b.max(initial=0)) + 1
        return array_nt.reshape(len(self.reward_n), calls, -1)[self.trajectory_b, self.step_b]


KIND = "online"


@checked(frozen=True, config=STRICT_OPTIONS)
class PpoOptions:
    """The options of PPO."""

    gamma: Fraction = 1.0  # discount per token
    lam: Fraction = 0.95  # GAE's lambda: 0 trusts the value head, 1 the rewards
    value_coefficient: Annotated[float, Field(gt=0)] = 0.1
    value_clip: Annotated[float, Field(gt=0)] = 0.2  # how far a value may move from the one at rollout time
    # Optimizer steps on each batch of rollouts. More steps save rollouts, but are unstable at the end: on the toy of
    # tests/training, 4 reach 0.98 with two thirds of the rollouts, and then sometimes fall to 0.91, also at a third of
    # the learning rate.
    iterations: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True, slots=True)
class ClippedValue:
    """The value loss with clipping."""

    coefficient: float
    clip: float

    def loss(self, value_bt: Any, old_value_bt: Any, return_bt: Any, mask_bt: Any) -> Any:
        """Return half the mean over tokens of the larger of two squared errors.

        These are of the value, and of the value clipped to `clip` around the old one, as in OpenAI's PPO and TRL's.
        """
        import torch

        near_bt = old_value_bt + (value_bt - old_value_bt).clamp(-self.clip, self.clip)
        error_bt = torch.maximum((value_bt - return_bt) ** 2, (near_bt - return_bt) ** 2)
        return 0.5 * (error_bt * mask_bt).sum() / mask_bt.sum().clamp(min=1)


@dataclass(frozen=True, slots=True)
class Ppo:
    """PPO with a critic."""

    loss: PolicyLoss
    critic: ClippedValue
    gamma: float
    lam: float

    def advantages(self, batch: RolloutBatch, value_bt: NDArray[Any] | None = None) -> TrainingSignal:
        """Return GAE over all tokens of a trajectory, through all its calls, with the reward at its last token.

        Advantages are then standardised over the step's tokens; returns are not. Raises TrainingError without the
        critic's values.
        """
        import torch

        if value_bt is None:
            raise TrainingError("algorithm=ppo needs the critic's values")
        if not batch.rows:
            return TrainingSignal(
                batch.broadcast(batch.reward_n), np.ones(0, dtype=np.bool_), batch.broadcast(batch.reward_n)
            )
        chain = ConcatenatedCalls.of(batch)
        mask_nt = chain.join(batch.mask_bt)
        reward_nt = np.zeros(mask_nt.shape)
        reward_nt[np.arange(len(chain.reward_n)), _last_token(mask_nt)] = chain.reward_n
        tensors = (torch.from_numpy(array) for array in (reward_nt, chain.join(value_bt.astype(np.float64)), mask_nt))
        advantage_nt, return_nt = generalised_advantages(*tensors, gamma=self.gamma, lam=self.lam)
        advantage_bt = _standardised(chain.split(advantage_nt.numpy()), batch.mask_bt)
        used_b = np.ones(len(batch.rows), dtype=np.bool_)
        return TrainingSignal(
            advantage_bt.astype(np.float32), used_b, chain.split(return_nt.numpy()).astype(np.float32)
        )


def _last_token(mask_nt: NDArray[Any]) -> NDArray[np.intp]:
    return mask_nt.shape[1] - 1 - mask_nt[:, ::-1].argmax(axis=1)


def _standardised(advantage_bt: NDArray[Any], mask_bt: NDArray[Any]) -> NDArray[Any]:
    tokens = advantage_bt[mask_bt]
    return (
        np.where(mask_bt, (advantage_bt - tokens.mean()) / (tokens.std() + 1e-8), 0.0) if tokens.size else advantage_bt
    )


def create(algorithm: AlgorithmConfig) -> Ppo:
    """Create the algorithm from its configuration. Raises TrainingError for wrong options."""
    options = read_options(PpoOptions, algorithm)
    critic = ClippedValue(options.value_coefficient, options.value_clip)
    return Ppo(policy_loss(algorithm, iterations=options.iterations), critic, options.gamma, options.lam)
