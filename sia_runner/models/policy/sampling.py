"""Token sampling: each row of a batch has its own temperature, top_p and seed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draw:
    """Sampling settings of one row: temperature 0 is greedy, top_p 1 the whole vocabulary."""

    temperature: float
    top_p: float
    seed: str


class Dice:
    """The random numbers of a batch, generated before decoding starts.

    A row's numbers depend on its seed and its number of tokens, never on the other rows. They are generated on the CPU,
    so a GPU run uses the same ones.
    """

    def __init__(self, draws: Sequence[Draw], limit: int, device: torch.device) -> None:
        self._uniform_bt = torch.stack([_throws(draw, limit) for draw in draws]).to(device)
        self._temperature_b = torch.tensor([draw.temperature for draw in draws], device=device)
        self._top_p_b = torch.tensor([draw.top_p for draw in draws], device=device, dtype=torch.float64)
        self._sampled = [draw.temperature > 0 for draw in draws]
        self._truncated = [draw.temperature > 0 and draw.top_p < 1 for draw in draws]

    def draw(self, logits_bv: Tensor, rows: Sequence[int], step: int) -> tuple[list[int], list[float]]:
        """Sample one token for each of `rows`; return the tokens and their logprobs (natural log).

        Logprobs are at the row's temperature, before top_p cuts; at temperature 0, where every choice is certain, they
        are the model's own (temperature 1).
        """
        index_b = torch.tensor(rows, device=logits_bv.device)
        temperature_b = self._temperature_b[index_b]
        scale_b = torch.where(temperature_b > 0, temperature_b, 1.0)
        # float64: in float32 a sum over 200,000 tokens is off by 1e-4, which changes samples near the boundaries
        logprob_bv = (logits_bv.double() / scale_b[:, None].double()).log_softmax(-1)
        token_b = logits_bv.argmax(-1)
        if any(self._sampled[row] for row in rows):
            probability_bv = logprob_bv.exp()
            if any(self._truncated[row] for row in rows):
                probability_bv = nucleus(probability_bv, self._top_p_b[index_b])
            sampled_b = _inverse_cdf(probability_bv, self._uniform_bt[index_b, step])
            token_b = torch.where(temperature_b > 0, sampled_b, token_b)
        return token_b.tolist(), logprob_bv.gather(1, token_b[:, None])[:, 0].tolist()


def nucleus(probability_bv: Tensor, top_p_b: Tensor) -> Tensor:
    """Return the smallest sets of likeliest tokens that reach top_p (Holtzman et al. 2020); the rest is 0.

    Shape (rows, vocabulary); not renormalised.
    """
    sorted_bv, order_bv = probability_bv.sort(descending=True, stable=True)
    before_bv = sorted_bv.cumsum(-1) - sorted_bv
    included_bv = (before_bv < top_p_b[:, None]) | (top_p_b[:, None] >= 1)  # a sum may round to 1 before its last token
    included_bv[:, 0] = True  # top_p 0 is greedy
    return torch.zeros_like(probability_bv).scatter(1, order_bv, sorted_bv * included_bv)


def _inverse_cdf(probability_bv: Tensor, uniform_b: Tensor) -> Tensor:
    sum_bv = probability_bv.cumsum(-1)
    target_b1 = (uniform_b * sum_bv[:, -1])[:, None]
    return torch.searchsorted(sum_bv, target_b1, right=True)[:, 0].clamp(max=probability_bv.shape[1] - 1)


def _throws(draw: Draw, limit: int) -> Tensor:
    """Return uniform numbers on [0, 1), one per token.

    torch uses 32 bits of a seed, so the seed is hashed to make all of it count.
    """
    if draw.temperature == 0:
        return torch.zeros(limit, dtype=torch.float64)
    digest = hashlib.sha256(draw.seed.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    return torch.rand(limit, generator=generator, dtype=torch.float64)
