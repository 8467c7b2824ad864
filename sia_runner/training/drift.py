"""The difference between a sampler's logprobs and the learner's for the same weights, and corrections for it.

Servers round otherwise than trainers do, and their mixtures of experts route some tokens to other experts. Axes: b rows
(model calls), t completion tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sia_runner.training.batch import BoolArray
from sia_runner.training.losses import Array
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import ProviderDown
from sia_runner.wire.learning import Learner, RowNumbers, TrainingRow
from sia_runner.wire.policy import LIVE_WEIGHTS, PolicyError, WeightsSource

Correction = Literal["none", "truncate", "mask"]
Score = Callable[[Sequence[TrainingRow], WeightsSource], RowNumbers]  # of a Sampler

_NORMAL_RATIOS = (0.5, 2.0)  # of the learner's probability to the sampler's
_CANARY_ROWS = 8
_CANARY_TOKENS = 8  # the least that tell noise from an effect
_ROUNDING = 1e-5  # nats per token: smaller effects drown in float32
# Nats, root mean square: of smaller effects a server that computes in 16 bits may round nearly all away, or half.
_SEEN_FROM, _HALF_SEEN_FROM = 0.3, 1.0
_CANARY_ERROR = 0.1  # greatest standard error of a share that decides


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


@dataclass(frozen=True, slots=True)
class Effect:
    """The share of an adapter's effect that a server shows: about 1, or 0 if it does not apply it."""

    share: float
    error: float  # standard error of the share; inf: the adapter has no effect yet, or there are too few tokens
    size: float = 0.0  # root mean square of the effect on the learner's logprobs, nats


def effect_at_server(server: RowNumbers, server_base: RowNumbers, learner: RowNumbers, base: RowNumbers) -> Effect:
    """Measure how much of the adapter's effect on logprobs a server shows.

    The regression of the server's differences on the learner's. Both are to the base by the same program, which cancels
    what quantisation and kernels shift.
    """
    server_t, server_base_t, learner_t, base_t = (
        np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])
        for rows in (server, server_base, learner, base)
    )
    effect_t, server_effect_t = learner_t - base_t, server_t - server_base_t
    strength, tokens = float(effect_t @ effect_t), effect_t.size
    if tokens < _CANARY_TOKENS or strength <= tokens * _ROUNDING**2:
        return Effect(0.0, math.inf)
    share = float(effect_t @ server_effect_t) / strength
    noise = float(np.sum((server_effect_t - share * effect_t) ** 2)) / (tokens - 1)
    return Effect(share, math.sqrt(noise / strength), math.sqrt(strength / tokens))


def adapter_is_served(score: Score, learner: Learner, rows: Sequence[TrainingRow], temperature: float) -> bool:
    """Return True once recorded completions prove that the sampler applies the adapter; False: too early to tell.

    `score`: the sampler's. `temperature`: of the learner's logprobs; those of a server are at 1, where effects are
    smaller than below 1. Raises PolicyError if the sampler is closer to the base than to the learner's weights, and
    ProviderDown without an answer.
    """

    def length(row: TrainingRow) -> int:
        return len(row.prompt_ids) + len(row.completion_ids)

    # Long rows show more, but the longest may fill the context, and a server that scores a row needs a token more.
    ordered = sorted(rows, key=length)
    shorter = [row for row in ordered if length(row) < length(ordered[-1])]
    rows = shorter[-_CANARY_ROWS:] if len(shorter) >= _CANARY_ROWS else ordered[:_CANARY_ROWS]
    try:
        server, server_base = score(rows, LIVE_WEIGHTS), score(rows, None)
    except CallError as failed:
        raise ProviderDown(f"no logprobs of recorded completions from the server: {failed.message}") from None
    now = learner.forward(rows).logprobs
    base = server_base if learner.abilities.shares_base else learner.forward(rows, base=True).logprobs
    effect = effect_at_server(server, server_base, now, base)
    expected = min(1.0, temperature)
    if effect.error > _CANARY_ERROR * expected:
        return False
    if effect.share < expected / 2:
        if effect.size < (_SEEN_FROM if effect.share <= 3 * effect.error else _HALF_SEEN_FROM):
            return False
        raise PolicyError(
            f"the server answers without the adapter that was published: it shows {effect.share:.0%} of its effect on "
            f"the logprobs of {len(rows)} recorded completions; see that it serves LoRA adapters of this base"
        )
    return True
