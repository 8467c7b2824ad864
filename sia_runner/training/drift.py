"""The difference between a sampler's logprobs and the learner's for the same weights, and corrections for it.

Servers round otherwise than trainers do, and their mixtures of experts route some tokens to other experts. Axes: b rows
(model calls), t completion tokens.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sia_runner.training.batch import BoolArray
from sia_runner.training.losses import Array

Correction = Literal["none", "truncate", "mask"]

_NORMAL_RATIOS = (0.5, 2.0)  # of the learner's probability to the sampler's


@dataclass(frozen=True, slots=True)
class Drift:
    """The figures of one batch."""

    kl: float  # of the sampler to the learner, nats per token
    outside: float  # share of tokens whose ratio is outside [0.5, 2]


def measure_drift(learner_bt: Array, sampler_bt: Array, mask_bt: BoolArray) -> Drift:
    """Compare logprobs of sampled tokens; both figures are 0 without any token.

    The KL is the mean of ratio - 1 - log ratio: unbiased for samples of the sampler, never negative (Schulman 2020).
    """
    log_ratio = (learner_bt - sampler_bt)[mask_bt]
    if not log_ratio.size:
        return Drift(0.0, 0.0)
    lowest, highest = np.log(_NORMAL_RATIOS)
    outside = (log_ratio < lowest) | (log_ratio > highest)
    return Drift(float(np.mean(np.expm1(log_ratio) - log_ratio)), float(outside.mean()))


def drift_factors(
    correction: Correction, learner_bt: Array, sampler_bt: Array, mask_bt: BoolArray, limit: float = 2.0
) -> Array | None:
    """Return the factor of each token's loss that corrects for the drift; None: no correction.

    `truncate`: the ratio, at most `limit`, so that tokens count as if the learner had sampled them. `mask`: the ratio,
    and 0 beyond `limit`. They are token_truncate and token_mask of TRL. 1 outside the mask.
    """
    if correction == "none":
        return None
    ratio_bt = np.exp(np.where(mask_bt, learner_bt - sampler_bt, 0.0))
    if correction == "truncate":
        return np.minimum(ratio_bt, limit)
    return np.where(ratio_bt > limit, 0.0, ratio_bt)
