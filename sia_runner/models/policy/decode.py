"""Sampling a batch from a causal language model, token by token, with a KV cache.

We use our own loop because each row has its own seed, temperature, top_p, limit and stop strings, and leaves the batch
when it ends; transformers' `generate` has one of each for all rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from sia_runner.models.policy.prefixes import Prefixes
from sia_runner.models.policy.sampling import Dice, Draw


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and its sampling settings; `limit` in tokens, at least 1."""

    prompt_ids: Sequence[int]
    limit: int
    draw: Draw
    stopped: Callable[[Sequence[int]], bool]  # True if these completion tokens end the answer


@dataclass(slots=True)
class Drawn:
    """The tokens sampled for one row.

    `ids` include the token that ended the answer: it was sampled, and is trained on.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] = "length"


@torch.no_grad()  # not inference_mode: buffers that a model makes lazily are needed by training later
def decode(
    model: Any, rows: Sequence[Row], pad_id: int, end_ids: frozenset[int], prefixes: Prefixes, version: str
) -> list[Drawn]:
    """Return the sampled tokens of each row, in order.

    `model` is in eval mode, and its weights have the version `version`.
    """
    cache, mask_bt, logits_bv = prefixes.read(model, [row.prompt_ids for row in rows], pad_id, version)
    position_b1 = mask_bt.sum(-1, keepdim=True) - 1
    sampler = Dice([row.draw for row in rows], max(row.limit for row in rows), model.device)
    results = [Drawn() for _ in rows]
    live = list(range(len(rows)))  # index of the row at each position of the batch
    step = 0
    while True:
        tokens, logprobs = sampler.draw(logits_bv, live, step)
        active = [
            at for at, row in enumerate(live) if not _append(results[row], rows[row], tokens[at], logprobs[at], end_ids)
        ]
        if not active:
            return results
        if len(active) < len(live):
            active_b = torch.tensor(active, device=model.device)
            cache.batch_select_indices(active_b)
            mask_bt, position_b1 = mask_bt[active_b], position_b1[active_b]
            live = [live[at] for at in active]
        mask_bt = torch.cat([mask_bt, mask_bt.new_ones(len(live), 1)], dim=1)
        position_b1 = position_b1 + 1
        logits_bv = model(
            input_ids=torch.tensor([tokens[at] for at in active], device=model.device)[:, None],
            attention_mask=mask_bt,
            position_ids=position_b1,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        step += 1


def _append(result: Drawn, row: Row, token: int, logprob: float, end_ids: frozenset[int]) -> bool:
    """Append a token; return True if the row has ended."""
    result.ids.append(token)
    result.logprobs.append(min(logprob, 0.0))  # log_softmax of a certain token may round to above 0
    if token in end_ids or row.stopped(result.ids):
        result.finish_reason = "stop"
        return True
    return len(result.ids) >= row.limit
