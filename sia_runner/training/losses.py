"""The losses of all algorithms, lowered to weights of tokens: the gradient of the loss by the current logprobs.

A learner needs no other loss than sum(weight * logprob), whose gradient is the same, so every backend trains on the
same numbers, which numpy computes in float64. They hold for the logprobs that they were computed from, since ratios and
clipping depend on those. Axes: b rows (model calls), t completion tokens, p pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sia_runner.errors import TrainingError
from sia_runner.training.algorithms.base import PolicyLoss
from sia_runner.training.batch import BoolArray

Array = NDArray[np.float64]

# The parameters of SAPO (Gao et al. 2025, arXiv 2511.20347) and of VESPO, by the sign of the advantage: TRL's defaults.
_SAPO_TEMPERATURES = (1.0, 1.05)  # of positive advantages, and of the others
_VESPO_POSITIVE, _VESPO_NEGATIVE = (2.0, 3.0), (3.0, 2.0)  # k and lambda
_VESPO_LOWEST, _VESPO_HIGHEST = math.log(1e-8), 20.0  # bounds of a log ratio


@dataclass(frozen=True, slots=True)
class StepSize:
    """The divisors of the losses: the sizes of the whole optimizer step, of which a batch may be a part."""

    rows: int
    tokens: int  # of completions, masked ones left out
    max_length: int  # tokens of prompt and completion together: Dr. GRPO's divisor

    @staticmethod
    def of(mask_bt: BoolArray, max_length: int) -> "StepSize":
        """Return the size of a step that consists of one batch; a row without tokens is a row too, as in TRL."""
        return StepSize(len(mask_bt), int(mask_bt.sum()), max_length)


@dataclass(frozen=True, slots=True)
class LossBatch:
    """The inputs of a policy loss. What stands outside the mask is not read, so it may be anything."""

    logprob_bt: Array  # of the weights now
    old_bt: Array  # of the sampler, at the rollouts
    advantage_bt: Array
    mask_bt: BoolArray  # True for a token to train on
    base_bt: Array | None = None  # of the base; needed for a KL to it
    factor_bt: Array | None = None  # of each token's loss without the KL; corrects for a sampler that drifts

    @staticmethod
    def of_rows(
        logprobs: Sequence[ArrayLike],
        old: Sequence[ArrayLike],
        advantage_bt: ArrayLike,
        base: Sequence[ArrayLike] | None = None,
    ) -> "LossBatch":
        """Pad rows of any lengths on the right, and mask the padding."""
        logprob_bt, mask_bt = pad_rows(logprobs)
        padded = [pad_rows(rows)[0] for rows in (old, base) if rows is not None]
        advantages = np.broadcast_to(np.asarray(advantage_bt, dtype=np.float64), logprob_bt.shape)
        return LossBatch(logprob_bt, padded[0], advantages, mask_bt, padded[1] if base is not None else None)


def pad_rows(rows: Sequence[ArrayLike]) -> tuple[Array, BoolArray]:
    """Return rows of numbers as one array, padded right with 0, and the mask of the numbers: shape (rows, longest)."""
    arrays = [np.asarray(row, dtype=np.float64) for row in rows]
    length_b = np.array([len(array) for array in arrays], dtype=np.intp)
    mask_bt = np.arange(length_b.max(initial=0))[None, :] < length_b[:, None]
    padded_bt = np.zeros(mask_bt.shape)
    if arrays:
        padded_bt[mask_bt] = np.concatenate(arrays)
    return padded_bt, mask_bt


def policy_weights(loss: PolicyLoss, batch: LossBatch, step: StepSize) -> Array:
    """Return the gradient of a clipped policy loss, and of its KL to the base, by the logprobs: shape (rows, tokens).

    The losses are those of TRL's GRPOTrainer, with the same names and defaults (`PolicyLoss`). 0 outside the mask.
    Raises TrainingError if a KL is asked for and the base's logprobs are missing.
    """
    mask_bt = batch.mask_bt
    log_ratio_bt = np.where(mask_bt, batch.logprob_bt - batch.old_bt, 0.0)
    advantage_bt = np.where(mask_bt, batch.advantage_bt, 0.0)
    share_bt = _shares(loss.loss_type, mask_bt, step)
    sequence = loss.importance_level == "sequence"
    length_b1 = np.maximum(mask_bt.sum(axis=1, keepdims=True), 1)
    if sequence:  # GSPO: the geometric mean of a row's ratios, the same for each of its tokens
        log_ratio_bt = np.where(mask_bt, log_ratio_bt.sum(axis=1, keepdims=True) / length_b1, 0.0)
    factor_bt = None if batch.factor_bt is None else np.where(mask_bt, batch.factor_bt, 1.0)
    through_ratio_bt = share_bt * _slope(loss, log_ratio_bt, advantage_bt, factor_bt)
    direct_bt: Array | float = 0.0
    if loss.beta:
        if batch.base_bt is None:
            raise TrainingError("a loss with a KL to the base needs the base's logprobs")
        # ratio (exp(gap) - gap - 1), gap = log base - log policy: k3 (Schulman 2020) times the ratio, without which its
        # gradient would be that of the KL in the other direction (DeepSeek-V3.2, arXiv 2512.02556).
        gap_bt = np.where(mask_bt, batch.base_bt - batch.logprob_bt, 0.0)
        scale_bt = loss.beta * share_bt * np.exp(log_ratio_bt)
        through_ratio_bt = through_ratio_bt + scale_bt * (np.expm1(gap_bt) - gap_bt)
        direct_bt = -scale_bt * np.expm1(gap_bt)
    if sequence:  # the one ratio depends on the logprobs of the whole row
        through_ratio_bt = np.where(mask_bt, through_ratio_bt.sum(axis=1, keepdims=True) / length_b1, 0.0)
    return through_ratio_bt + direct_bt


def _shares(loss_type: str, mask_bt: BoolArray, step: StepSize) -> Array:
    """Return the factor of each token's loss in the loss of the whole step, 0 outside the mask."""
    if loss_type in ("grpo", "sapo"):  # a mean over rows of means over tokens
        length_b1 = np.maximum(mask_bt.sum(axis=1, keepdims=True), 1)
        return mask_bt / length_b1 / step.rows
    divisors = {"dr_grpo": step.rows * step.max_length, "luspo": step.rows}
    return mask_bt / max(divisors.get(loss_type, step.tokens), 1)  # bnpo cispo dapo vespo: a mean over tokens


def _slope(loss: PolicyLoss, log_ratio_bt: Array, advantage_bt: Array, factor_bt: Array | None) -> Array:
    """Return d/d(log ratio) of each token's own loss, undivided. Raises TrainingError for an unknown loss."""
    ratio_bt, positive_bt = np.exp(log_ratio_bt), advantage_bt > 0
    match loss.loss_type:
        case "dapo" | "grpo" | "bnpo" | "dr_grpo" | "luspo":  # -min(ratio A, clip(ratio) A): PPO's
            above_bt = positive_bt & (ratio_bt > 1 + loss.epsilon_high)
            below_bt = (advantage_bt < 0) & (ratio_bt < 1 - loss.epsilon)
            scale_bt = np.where(above_bt | below_bt, 0.0, ratio_bt)
        case "cispo":  # the bounded ratio is a constant factor of A log p
            scale_bt = np.minimum(ratio_bt, loss.epsilon_high)
        case "sapo":  # -4 / T sigmoid(T (ratio - 1)) A: a soft clip
            temperature_bt = np.where(positive_bt, *_SAPO_TEMPERATURES)
            gate_bt = _sigmoid(temperature_bt * (ratio_bt - 1))
            scale_bt = 4 * gate_bt * (1 - gate_bt) * ratio_bt
        case "vespo":  # a weight of the whole sequence, which the factors enter
            return -_vespo_scale(log_ratio_bt, advantage_bt, factor_bt) * advantage_bt
        case _:
            raise TrainingError(f"unknown loss: {loss.loss_type}")
    return -scale_bt * advantage_bt * (1.0 if factor_bt is None else factor_bt)


def _vespo_scale(log_ratio_bt: Array, advantage_bt: Array, factor_bt: Array | None) -> Array:
    """Return exp(lambda) w^k exp(-lambda w), w = the ratio of the whole sequence: a constant factor of A log p."""
    log_ratio_b1 = log_ratio_bt.clip(-_VESPO_HIGHEST, _VESPO_HIGHEST).sum(axis=1, keepdims=True)
    if factor_bt is not None:
        lowest, highest = math.exp(_VESPO_LOWEST), math.exp(_VESPO_HIGHEST)
        log_ratio_b1 = log_ratio_b1 + np.log(factor_bt.clip(lowest, highest)).sum(axis=1, keepdims=True)
    log_ratio_b1 = log_ratio_b1.clip(_VESPO_LOWEST, _VESPO_HIGHEST)
    k_bt, lambda_bt = (
        np.where(advantage_bt >= 0, *pair) for pair in zip(_VESPO_POSITIVE, _VESPO_NEGATIVE, strict=True)
    )
    return np.exp(lambda_bt + k_bt * log_ratio_b1 - lambda_bt * np.exp(log_ratio_b1))


def supervised_weights(mask_bt: BoolArray, tokens: int) -> Array:
    """Return the gradient of the cross-entropy, a mean over the `tokens` of the whole step."""
    return mask_bt / -max(tokens, 1)


@dataclass(frozen=True, slots=True)
class PreferenceBatch:
    """The inputs of DPO's loss: row p of the one half is preferred to row p of the other."""

    chosen_pt: Array  # logprobs of the weights now
    rejected_pt: Array
    base_chosen_pt: Array
    base_rejected_pt: Array
    chosen_mask_pt: BoolArray
    rejected_mask_pt: BoolArray


def preference_weights(
    loss: Literal["sigmoid", "ipo"], beta: float, batch: PreferenceBatch, pairs: int
) -> tuple[Array, Array]:
    """Return the gradients of DPO's loss by the logprobs of the chosen and of the rejected completions.

    The loss is a mean over the `pairs` of the whole step. `sigmoid`: Rafailov et al. 2023, equation 7; `ipo`: Azar et
    al. 2023, equation 17, on log ratios per token, as in TRL.
    """
    chosen, rejected = (
        (np.where(mask_pt, now_pt - base_pt, 0.0).sum(axis=1), np.maximum(mask_pt.sum(axis=1), 1.0))
        for now_pt, base_pt, mask_pt in (
            (batch.chosen_pt, batch.base_chosen_pt, batch.chosen_mask_pt),
            (batch.rejected_pt, batch.base_rejected_pt, batch.rejected_mask_pt),
        )
    )
    if loss == "sigmoid":
        slope_p = -beta * _sigmoid(-beta * (chosen[0] - rejected[0])) / pairs
        slopes = slope_p, -slope_p
    else:
        margin_p = chosen[0] / chosen[1] - rejected[0] / rejected[1]
        slope_p = 2 * (margin_p - 1 / (2 * beta)) / pairs
        slopes = slope_p / chosen[1], -slope_p / rejected[1]
    masks = batch.chosen_mask_pt, batch.rejected_mask_pt
    chosen_pt, rejected_pt = (slope_p[:, None] * mask_pt for slope_p, mask_pt in zip(slopes, masks, strict=True))
    return chosen_pt, rejected_pt


def _sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x)) without overflow: exp of a positive number is never taken."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1 + small)
