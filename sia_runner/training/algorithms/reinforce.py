"""REINFORCE with a leave-one-out baseline (RLOO: Ahmadian et al. 2024, arXiv 2402.14740).

A KL term of weight `kl` keeps the policy near the base.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sia_runner.config.training import AlgorithmConfig
from sia_runner.selection.algorithm_choice import FloatArray
from sia_runner.training.algorithms.base import (
    NoOptions,
    PolicyLoss,
    TrainingSignal,
    compare_within_groups,
    policy_loss,
    read_options,
)
from sia_runner.training.batch import RolloutBatch

KIND = "online"


@dataclass(frozen=True, slots=True)
class Reinforce:
    """REINFORCE with a leave-one-out baseline."""

    loss: PolicyLoss
    critic: None = None

    def advantages(self, batch: RolloutBatch, value_bt: NDArray[Any] | None = None) -> TrainingSignal:
        """Return leave-one-out advantages; groups without a signal stay, with advantage 0, for the KL term."""
        advantage_n, _ = compare_within_groups(batch, leave_one_out_advantages)
        return TrainingSignal(batch.broadcast(advantage_n), np.ones(len(batch.rows), dtype=np.bool_))


def leave_one_out_advantages(reward_g: FloatArray) -> FloatArray:
    """Return each reward minus the mean of the others: unbiased, as no baseline depends on its own sample."""
    others_g = (reward_g.sum() - reward_g) / (len(reward_g) - 1)
    return reward_g - others_g


def create(algorithm: AlgorithmConfig) -> Reinforce:
    """Create the algorithm from its configuration. Raises TrainingError for wrong options."""
    read_options(NoOptions, algorithm)
    return Reinforce(policy_loss(algorithm))
