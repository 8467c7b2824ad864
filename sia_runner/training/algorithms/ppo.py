"""PPO (Schulman et al. 2017, arXiv 1707.06347): a value head assigns credit to single tokens and calls."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from sia_runner.schema.training import Algorithm, Share1
from sia_runner.training.algorithms.gae import Chain, gae
from sia_runner.training.algorithms.options import STRICT, policy_loss, read
from sia_runner.training.algorithms.protocol import Loss, Signal
from sia_runner.training.batch import Batch
from sia_runner.training.protocol import TrainingError

KIND = "online"


@checked(frozen=True, config=STRICT)
class Options:
    """The options of PPO."""

    gamma: Share1 = 1.0  # discount per token
    lam: Share1 = 0.95  # GAE's lambda: 0 trusts the value head, 1 the rewards
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

    def loss(self, value_bt: Any, old_value_bt: Any, return_bt: Any, mask_bt: Any, tokens: float | None = None) -> Any:
        """Return half the mean over tokens of the larger of two squared errors.

        These are of the value, and of the value clipped to `clip` around the old one, as in OpenAI's PPO and TRL's.
        `tokens`: see Critic.
        """
        import torch

        near_bt = old_value_bt + (value_bt - old_value_bt).clamp(-self.clip, self.clip)
        error_bt = torch.maximum((value_bt - return_bt) ** 2, (near_bt - return_bt) ** 2)
        return 0.5 * (error_bt * mask_bt).sum() / (mask_bt.sum().clamp(min=1) if tokens is None else tokens)


@dataclass(frozen=True, slots=True)
class Ppo:
    """PPO with a critic."""

    loss: Loss
    critic: ClippedValue
    gamma: float
    lam: float

    def advantages(self, batch: Batch, value_bt: NDArray[Any] | None = None) -> Signal:
        """Return GAE over all tokens of a trajectory, through all its calls, with the reward at its last token.

        Advantages are then standardised over the step's tokens; returns are not. Raises TrainingError without the
        critic's values.
        """
        import torch

        if value_bt is None:
            raise TrainingError("algorithm=ppo needs the critic's values")
        if not batch.rows:
            return Signal(batch.broadcast(batch.reward_n), np.ones(0, dtype=np.bool_), batch.broadcast(batch.reward_n))
        chain = Chain.of(batch)
        mask_nt = chain.join(batch.mask_bt)
        reward_nt = np.zeros(mask_nt.shape)
        reward_nt[np.arange(len(chain.reward_n)), _last(mask_nt)] = chain.reward_n
        tensors = (torch.from_numpy(array) for array in (reward_nt, chain.join(value_bt.astype(np.float64)), mask_nt))
        advantage_nt, return_nt = gae(*tensors, gamma=self.gamma, lam=self.lam)
        advantage_bt = _standardised(chain.split(advantage_nt.numpy()), batch.mask_bt)
        used_b = np.ones(len(batch.rows), dtype=np.bool_)
        return Signal(advantage_bt.astype(np.float32), used_b, chain.split(return_nt.numpy()).astype(np.float32))


def _last(mask_nt: NDArray[Any]) -> NDArray[np.intp]:
    return mask_nt.shape[1] - 1 - mask_nt[:, ::-1].argmax(axis=1)


def _standardised(advantage_bt: NDArray[Any], mask_bt: NDArray[Any]) -> NDArray[Any]:
    tokens = advantage_bt[mask_bt]
    return (
        np.where(mask_bt, (advantage_bt - tokens.mean()) / (tokens.std() + 1e-8), 0.0) if tokens.size else advantage_bt
    )


def create(algorithm: Algorithm) -> Ppo:
    """Create the algorithm from its configuration. Raises TrainingError for wrong options."""
    options = read(Options, algorithm)
    critic = ClippedValue(options.value_coefficient, options.value_clip)
    return Ppo(policy_loss(algorithm, iterations=options.iterations), critic, options.gamma, options.lam)
