"""GRPO: rewards normalised within the group (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, section 4.1.2)."""

from dataclasses import dataclass
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
    PolicyLoss,
    TrainingSignal,
    compare_within_groups,
    policy_loss,
    read_options,
)
from sia_runner.training.batch import RolloutBatch

KIND = "online"
DEVIATION_EPSILON = 1e-4  # TRL's, added to the standard deviation

# The importance levels that a loss allows; the rest: token. TRL only warns. At sequence level a loss that sums over
# tokens would weight a sequence's one ratio by its length; VESPO makes sequence weights of its own.
IMPORTANCE_LEVELS = {"grpo": ("token", "sequence"), "sapo": ("token", "sequence"), "luspo": ("sequence",)}
CISPO_MAX = 5.0  # CISPO bounds the ratio itself, not its distance from 1 (Khatri et al. 2025, arXiv 2510.13786)


@checked(frozen=True, config=STRICT_OPTIONS)
class GrpoOptions:
    """The options of GRPO and its variants."""

    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    importance_level: Literal["token", "sequence"] = "token"  # sequence: GSPO
    scale: Literal["group", "batch", "none"] = "group"  # standard deviation to divide by; none: Dr. GRPO
    clip_high: Annotated[float, Field(gt=0)] | None = None  # upper clip range; absent: as `clip` (cispo: 5)
    iterations: Annotated[int, Field(ge=1)] = 1  # optimizer steps on each batch of rollouts


@dataclass(frozen=True, slots=True)
class Grpo:
    """GRPO; its advantages compare the trajectories of a group."""

    loss: PolicyLoss
    scale: str
    critic: None = None

    def advantages(self, batch: RolloutBatch, value_bt: NDArray[Any] | None = None) -> TrainingSignal:
        """Return advantages within groups, divided by the group's or the batch's deviation.

        Groups without a signal stay in the step with advantage 0, as in TRL: they count in the loss's mean, and in its
        KL term.
        """
        advantage_n, signal_n = compare_within_groups(
            batch, normalised_rewards if self.scale == "group" else centred_rewards
        )
        if self.scale == "batch" and signal_n.any():
            advantage_n = advantage_n / (batch.reward_n.std(ddof=1) + DEVIATION_EPSILON)
        return TrainingSignal(batch.broadcast(advantage_n), np.ones(len(batch.rows), dtype=np.bool_))


def centred_rewards(reward_g: FloatArray) -> FloatArray:
    """Return rewards minus their mean."""
    return reward_g - reward_g.mean()


def normalised_rewards(reward_g: FloatArray) -> FloatArray:
    """Return (r - mean) / (standard deviation + 1e-4), with G - 1 in the deviation's denominator, as in TRL."""
    return centred_rewards(reward_g) / (reward_g.std(ddof=1) + DEVIATION_EPSILON)


def create(algorithm: AlgorithmConfig) -> Grpo:
    """Create the algorithm from its configuration. Raises TrainingError for wrong options."""
    options = read_options(GrpoOptions, algorithm)
    levels = IMPORTANCE_LEVELS.get(options.loss, ("token",))
    if options.importance_level not in levels:
        allowed = " or ".join(levels)
        raise TrainingError(f"loss={options.loss} needs importance_level={allowed}; given: {options.importance_level}")
    high = options.clip_high or (CISPO_MAX if options.loss == "cispo" else None)
    loss = policy_loss(algorithm, options.loss, options.importance_level, options.iterations, high)
    return Grpo(loss, options.scale)
