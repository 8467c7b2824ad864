"""REINFORCE with a leave-one-out baseline (RLOO: Ahmadian et al. 2024, arXiv 2402.14740).

A KL term of weight `kl` keeps the policy near the base."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as checked

from sia_runner.config.training import AlgorithmConfig
from sia_runner.selection.algorithm_choice import FloatArray
from sia_runner.training.algorithms.base import (
    STRICT_OPTIONS,
    PolicyLoss,
    TrainingSignal,
    compare_within_groups,
    policy_loss,
    read_options,
)
from sia_runner.training.batch import RolloutBatch

KIND = "online"


@checked(frozen=True, config=STRICT_OPTIONS)
class ReinforceOptions:
    """The options of REINFORCE: there are none."""


@dataclass(frozen=True, slots=True)
class Reinforce:
    """REINFORCE with a leave-one-out baseline."""

    loss: PolicyLoss
    critic: None = None

    def advantages(self, batch: RolloutBatch, value_bt: NDArray[Any] | None = None) -> TrainingSignal:
        """Return leave-one-out advantages.

        Groups without a signal stay in the step with advantage 0: the KL term holds them near the base.
        """
        advantage_n, _ = compare_within_groups(batch, leave_one_out_advantages)
        return TrainingSignal(batch.broadcast(advantage_n), np.ones(len(batch.rows), dtype=np.bool_))


def leave_one_out_advantages(reward_g: FloatArray) -> FloatArray:
    """Return each reward minus the mean of the others: unbiased, as no baseline depends on its own sample."""
    others_g = (reward_g.sum() - reward_g) / (len(reward_g) - 1)
    return reward_g - others_g


def create(algorithm: AlgorithmConfig) -> Reinforce:
    """Create the algorithm from its configuration. Raises TrainingError for wrong options."""
    read_options(ReinforceOptions, algorithm)
    return Reinforce(policy_loss(algorithm))
