"""REINFORCE with a leave-one-out baseline (RLOO: Ahmadian et al. 2024, arXiv 2402.14740).

A KL term of weight `kl` keeps the policy near the base.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as checked

from sia_runner.schema.training import Algorithm
from sia_runner.training.algorithms.groups import compare
from sia_runner.training.algorithms.options import STRICT, policy_loss, read
from sia_runner.training.algorithms.protocol import Loss, Signal
from sia_runner.training.batch import Batch
from sia_runner.training.shape import Floats

KIND = "online"


@checked(frozen=True, config=STRICT)
class Options:
    """The options of REINFORCE: there are none."""


@dataclass(frozen=True, slots=True)
class Reinforce:
    """REINFORCE with a leave-one-out baseline."""

    loss: Loss
    critic: None = None

    def advantages(self, batch: Batch, value_bt: NDArray[Any] | None = None) -> Signal:
        """Return leave-one-out advantages.

        Groups without a signal stay in the step with advantage 0: the KL term holds them near the base.
        """
        advantage_n, _ = compare(batch, leave_one_out)
        return Signal(batch.broadcast(advantage_n), np.ones(len(batch.rows), dtype=np.bool_))


def leave_one_out(reward_g: Floats) -> Floats:
    """Return each reward minus the mean of the others: unbiased, as no baseline depends on its own sample."""
    others_g = (reward_g.sum() - reward_g) / (len(reward_g) - 1)
    return reward_g - others_g


def create(algorithm: Algorithm) -> Reinforce:
    """Create the algorithm from its configuration. Raises TrainingError for wrong options."""
    read(Options, algorithm)
    return Reinforce(policy_loss(algorithm))
