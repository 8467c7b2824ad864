"""GRPO: rewards normalised within the group (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300, section 4.1.2)."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from sia_runner.schema.training import Algorithm
from sia_runner.training.algorithms.groups import compare
from sia_runner.training.algorithms.options import STRICT, policy_loss, read
from sia_runner.training.algorithms.protocol import Loss, Signal
from sia_runner.training.batch import Batch
from sia_runner.training.protocol import TrainingError
from sia_runner.training.shape import Floats

KIND = "online"
EPSILON = 1e-4  # TRL's, added to the standard deviation

# The importance levels that a loss allows; the rest: token. TRL only warns. At sequence level a loss that sums over
# tokens would weight a sequence's one ratio by its length; VESPO makes sequence weights of its own.
LEVELS = {"grpo": ("token", "sequence"), "sapo": ("token", "sequence"), "luspo": ("sequence",)}
CISPO_MAX = 5.0  # CISPO bounds the ratio itself, not its distance from 1 (Khatri et al. 2025, arXiv 2510.13786)


@checked(frozen=True, config=STRICT)
class Options:
    """The options of GRPO and its variants."""

    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    importance_level: Literal["token", "sequence"] = "token"  # sequence: GSPO
    scale: Literal["group", "batch", "none"] = "group"  # standard deviation to divide by; none: Dr. GRPO
    clip_high: Annotated[float, Field(gt=0)] | None = None  # upper clip range; absent: as `clip` (cispo: 5)
    iterations: Annotated[int, Field(ge=1)] = 1  # optimizer steps on each batch of rollouts


@dataclass(frozen=True, slots=True)
class Grpo:
    """GRPO; its advantages compare the trajectories of a group."""

    loss: Loss
    scale: str
    critic: None = None

    def advantages(self, batch: Batch, value_bt: NDArray[Any] | None = None) -> Signal:
        """Return advantages within groups, divided by the group's or the batch's deviation.

        Groups without a signal stay in the step with advantage 0, as in TRL: they count in the loss's mean, and in its
        KL term.
        """
        advantage_n, signal_n = compare(batch, normalised if self.scale == "group" else centred)
        if self.scale == "batch" and signal_n.any():
            advantage_n = advantage_n / (batch.reward_n.std(ddof=1) + EPSILON)
        return Signal(batch.broadcast(advantage_n), np.ones(len(batch.rows), dtype=np.bool_))


def centred(reward_g: Floats) -> Floats:
    """Return rewards minus their mean."""
    return reward_g - reward_g.mean()


def normalised(reward_g: Floats) -> Floats:
    """Return (r - mean) / (standard deviation + 1e-4), with G - 1 in the deviation's denominator, as in TRL."""
    return centred(reward_g) / (reward_g.std(ddof=1) + EPSILON)


def create(algorithm: Algorithm) -> Grpo:
    """Create the algorithm from its configuration. Raises TrainingError for wrong options."""
    options = read(Options, algorithm)
    levels = LEVELS.get(options.loss, ("token",))
    if options.importance_level not in levels:
        allowed = " or ".join(levels)
        raise TrainingError(f"loss={options.loss} needs importance_level={allowed}; given: {options.importance_level}")
    high = options.clip_high or (CISPO_MAX if options.loss == "cispo" else None)
    loss = policy_loss(algorithm, options.loss, options.importance_level, options.iterations, high)
    return Grpo(loss, options.scale)
