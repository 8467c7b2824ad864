"""Entropic advantages with an adaptive temperature (TTT-Discover, arXiv 2601.16175).

The objective is log E[exp(beta r)], which weights a rare high reward more than many middling ones.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sia_runner.config.training import AlgorithmConfig
from sia_runner.errors import TrainingError
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
# With K = 2 the KL of a single winner reaches ln 2 only in the limit: beta runs to its cap and the advantage to 1e12.
MIN_GROUP_SIZE = 4
TARGET_KL = math.log(2)  # nats
MAX_BETA = 1e6
BISECTIONS = 100


@dataclass(frozen=True, slots=True)
class Entropic:
    """The entropic objective with an adaptive temperature."""

    loss: PolicyLoss
    critic: None = None

    def advantages(self, batch: RolloutBatch, value_bt: NDArray[Any] | None = None) -> TrainingSignal:
        """Return entropic advantages; groups of equal rewards, or below 4 trajectories, are left out of the step."""
        advantage_n, signal_n = compare_within_groups(batch, entropic_advantages, MIN_GROUP_SIZE)
        return TrainingSignal(batch.broadcast(advantage_n), signal_n[batch.trajectory_b])


def entropic_advantages(reward_g: FloatArray) -> FloatArray:
    """Return A_i = e_i / (Z_i + 1e-12) - 1 in float64. Raises TrainingError for K < 4.

    e_i = exp(beta (r_i - max r)), and Z_i is the mean of the other e. The KL bound keeps A finite: a single winner has
    at most 11.9 with K = 4 and 27.8 with K = 64; winners that share the best reward have at most K - 2.
    """
    count = len(reward_g)
    if count < MIN_GROUP_SIZE:
        raise TrainingError(f"algorithm=entropic needs groups of at least {MIN_GROUP_SIZE} samples; given: {count}")
    gap_g = reward_g.astype(np.float64) - reward_g.max()
    e_g = np.exp(entropic_beta(gap_g) * gap_g)
    others_g = (e_g.sum() - e_g) / (count - 1)
    return e_g / (others_g + 1e-12) - 1


def entropic_beta(gap_g: FloatArray) -> float:
    """Return beta with KL(q to uniform) = ln 2, for q proportional to exp(beta r).

    beta is doubled from 1 until the KL is reached, then bisected. It is 1e6 if the KL cannot be reached (half of the
    group or more share the best reward) or only beyond that. `gap_g`: rewards minus their maximum.
    """
    low, high = 0.0, 1.0
    while kl_to_uniform(high * gap_g) < TARGET_KL:
        if high >= MAX_BETA:
            return MAX_BETA
        low, high = high, min(2 * high, MAX_BETA)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if kl_to_uniform(middle * gap_g) < TARGET_KL else (low, middle)
    return low


def kl_to_uniform(logit_g: FloatArray) -> float:
    """Return KL(softmax(logits) to uniform) in nats; the largest logit has to be 0."""
    e_g = np.exp(logit_g)
    q_g = e_g / e_g.sum()
    return float((q_g * logit_g).sum() - math.log(e_g.sum()) + math.log(len(logit_g)))


def create(algorithm: AlgorithmConfig) -> Entropic:
    """Create the algorithm from its configuration. Raises TrainingError for wrong options."""
    read_options(NoOptions, algorithm)
    return Entropic(policy_loss(algorithm))
