"""Online algorithms that compare the trajectories of a group: GRPO, REINFORCE and the entropic objective."""

import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from sia_runner.config.training import AlgorithmConfig
from sia_runner.errors import TrainingError
from sia_runner.selection.algorithm_choice import FloatArray
from sia_runner.training.algorithms.base import (
    STRICT_OPTIONS,
    NoOptions,
    TrainingSignal,
    compare_within_groups,
    policy_loss,
    read_options,
)
from sia_runner.training.batch import RolloutBatch

_DEVIATION_EPSILON = 1e-4  # TRL's, added to the standard deviation

# The importance levels that a loss allows; the rest: token. TRL only warns. At sequence level a loss that sums over
# tokens would weight a sequence's one ratio by its length; VESPO makes sequence weights of its own.
_IMPORTANCE_LEVELS = {"grpo": ("token", "sequence"), "sapo": ("token", "sequence"), "luspo": ("sequence",)}
_CISPO_MAX = 5.0  # CISPO bounds the ratio itself, not its distance from 1 (Khatri et al. 2025, arXiv 2510.13786)


@checked(frozen=True, config=STRICT_OPTIONS)
class GrpoOptions:
    """The options of GRPO and its variants."""

    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    importance_level: Literal["token", "sequence"] = "token"  # sequence: GSPO
    scale: Literal["group", "batch", "none"] = "group"  # standard deviation to divide by; none: Dr. GRPO
    clip_high: Annotated[float, Field(gt=0)] | None = None  # upper clip range; absent: as `clip` (cispo: 5)
    iterations: Annotated[int, Field(ge=1)] = 1  # optimizer steps on each batch of rollouts


class Grpo:
    """Rewards normalised within the group (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, section 4.1.2)."""

    critic = None

    def __init__(self, algorithm: AlgorithmConfig) -> None:
        """Read the options. Raises TrainingError for wrong ones."""
        options = read_options(GrpoOptions, algorithm)
        loss, level = options.loss, options.importance_level
        levels = _IMPORTANCE_LEVELS.get(loss, ("token",))
        if level not in levels:
            raise TrainingError(f"loss={loss} needs importance_level={' or '.join(levels)}; given: {level}")
        high = options.clip_high or (_CISPO_MAX if loss == "cispo" else None)
        self.loss, self._scale = policy_loss(algorithm, loss, level, options.iterations, high), options.scale

    def advantages(self, batch: RolloutBatch, value_bt: NDArray[Any] | None = None) -> TrainingSignal:
        """Return advantages within groups, divided by the group's or the batch's deviation.

        Groups without a signal stay, as in TRL, with advantage 0: they count in the loss's mean, and in its KL term.
        """
        within = normalised_rewards if self._scale == "group" else _centred_rewards
        advantage_n, signal_n = compare_within_groups(batch, within)
        if self._scale == "batch" and signal_n.any():
            advantage_n = advantage_n / (batch.reward_n.std(ddof=1) + _DEVIATION_EPSILON)
        return TrainingSignal(batch.broadcast(advantage_n), np.ones(len(batch.rows), dtype=np.bool_))


def _centred_rewards(reward_g: FloatArray) -> FloatArray:
    return reward_g - reward_g.mean()


def normalised_rewards(reward_g: FloatArray) -> FloatArray:
    """Return (r - mean) / (standard deviation + 1e-4), with G - 1 in the deviation's denominator, as in TRL."""
    return _centred_rewards(reward_g) / (reward_g.std(ddof=1) + _DEVIATION_EPSILON)


class _WithoutOptions:
    critic = None

    def __init__(self, algorithm: AlgorithmConfig) -> None:
        """Refuse options: there are none."""
        read_options(NoOptions, algorithm)
        self.loss = policy_loss(algorithm)


class Reinforce(_WithoutOptions):
    """REINFORCE with a leave-one-out baseline (RLOO: Ahmadian et al. 2024, arXiv 2402.14740)."""

    def advantages(self, batch: RolloutBatch, value_bt: NDArray[Any] | None = None) -> TrainingSignal:
        """Return leave-one-out advantages; groups without a signal stay, with advantage 0, for the KL term."""
        advantage_n, _ = compare_within_groups(batch, leave_one_out_advantages)
        return TrainingSignal(batch.broadcast(advantage_n), np.ones(len(batch.rows), dtype=np.bool_))


def leave_one_out_advantages(reward_g: FloatArray) -> FloatArray:
    """Return each reward minus the mean of the others: unbiased, as no baseline depends on its own sample."""
    others_g = (reward_g.sum() - reward_g) / (len(reward_g) - 1)
    return reward_g - others_g


# With K = 2 the KL of a single winner reaches ln 2 only in the limit: beta runs to its cap and the advantage to 1e12.
_MIN_GROUP_SIZE = 4
_TARGET_KL = math.log(2)  # nats
MAX_BETA = 1e6
_BISECTIONS = 100


class Entropic(_WithoutOptions):
    """Entropic advantages with an adaptive temperature (TTT-Discover, arXiv 2601.16175).

    The objective is log E[exp(beta r)], which weights a rare high reward more than many middling ones.
    """

    def advantages(self, batch: RolloutBatch, value_bt: NDArray[Any] | None = None) -> TrainingSignal:
        """Return entropic advantages; groups of equal rewards, or below 4 trajectories, are left out of the step."""
        advantage_n, signal_n = compare_within_groups(batch, entropic_advantages, _MIN_GROUP_SIZE)
        return TrainingSignal(batch.broadcast(advantage_n), signal_n[batch.trajectory_b])


def entropic_advantages(reward_g: FloatArray) -> FloatArray:
    """Return A_i = e_i / (Z_i + 1e-12) - 1 in float64. Raises TrainingError for K < 4.

    e_i = exp(beta (r_i - max r)), and Z_i is the mean of the other e. The KL bound keeps A finite: a single winner has
    at most 11.9 with K = 4 and 27.8 with K = 64; winners that share the best reward have at most K - 2.
    """
    count = len(reward_g)
    if count < _MIN_GROUP_SIZE:
        raise TrainingError(f"algorithm=entropic needs groups of at least {_MIN_GROUP_SIZE} samples; given: {count}")
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
    while kl_to_uniform(high * gap_g) < _TARGET_KL:
        if high >= MAX_BETA:
            return MAX_BETA
        low, high = high, min(2 * high, MAX_BETA)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if kl_to_uniform(middle * gap_g) < _TARGET_KL else (low, middle)
    return low


def kl_to_uniform(logit_g: FloatArray) -> float:
    """Return KL(softmax(logits) to uniform) in nats; the largest logit has to be 0."""
    e_g = np.exp(logit_g)
    q_g = e_g / e_g.sum()
    return float((q_g * logit_g).sum() - math.log(e_g.sum()) + math.log(len(logit_g)))
