"""Prompt sharing: the samples of a question share its prompt, which one forward pass reads for all of them.

    prompt without its last token | last token, completion 1 | last token, completion 2 | ...

is one sequence, in which each completion attends to the prompt and itself. The prompt's last token is repeated for each
completion, since it predicts another token in each. The result is exact up to the order of sums, and needs layers with
full attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sia_runner.training.batch import Batch

_PAYS = 0.7  # of the tokens that rows on their own would take
_MOST = 2**28  # entries of an attention mask


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows of a chunk as sequences that share prompts.

    Axes: g sequences, l their tokens, b rows, t completion tokens.
    """

    ids_gl: Tensor
    position_gl: Tensor
    branch_gl: Tensor  # 0: prompt; k: the k-th completion of the sequence; -1: padding
    label_gl: Tensor  # the token that is predicted; -100: none
    position_bt: Tensor  # index in the flattened (g, l) where a completion token is predicted; -1: padding

    def inputs(self) -> dict[str, Tensor]:
        """Return the inputs for a transformers model with TRL's fused head."""
        branch_gl, tokens = self.branch_gl, self.ids_gl.shape[1]
        same_gll = branch_gl[:, None, :] == branch_gl[:, :, None]
        past_ll = torch.ones(tokens, tokens, dtype=torch.bool, device=branch_gl.device).tril()
        seen_gll = past_ll & (same_gll | (branch_gl[:, None, :] == 0))
        return {"input_ids": self.ids_gl, "position_ids": self.position_gl, "attention_mask": seen_gll[:, None]}

    def rows(self, value_gl: Tensor) -> Tensor:
        """Return the values at each completion token's prediction: (g, l, ...) -> (b, t, ...), 0 on padding."""
        value_bt = value_gl.flatten(0, 1)[self.position_bt.clamp(min=0)]
        missing = self.position_bt < 0
        return value_bt.masked_fill(missing.reshape(*missing.shape, *[1] * (value_bt.dim() - 2)), 0)


def possible(model: Any) -> bool:
    """Return True if a model takes our attention mask: all layers with full attention, computed by torch."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    full = set(layers) == {"full_attention"} if layers else getattr(config, "sliding_window", None) is None
    return full and config._attn_implementation == "sdpa"


def pays(batch: Batch, rows: Sequence[int]) -> bool:
    """Return True if `rows` share enough prompts that one pass over them saves much."""
    completion = sum(len(batch.rows[row].completion_ids) for row in rows)
    alone = sum(len(batch.rows[row].prompt_ids) for row in rows)
    shared = sum(map(len, {batch.rows[row].prompt_ids for row in rows}))
    return shared + completion < _PAYS * (alone + completion)


def pack(ids_bt: Tensor, mask_bt: Tensor, completion_length: int) -> Packed | None:
    """Pack rows by prompt; return None if there is too little to share.

    `ids_bt`, `mask_bt`: prompts, padded left, and `completion_length` columns of completions, padded right.
    """
    rows = [
        (
            _kept(ids[:-completion_length], mask[:-completion_length]),
            _kept(ids[-completion_length:], mask[-completion_length:]),
        )
        for ids, mask in zip(ids_bt.tolist(), mask_bt.tolist(), strict=True)
    ]
    sequences: dict[tuple[int, ...], _Sequence] = {}
    starts = [sequences.setdefault(prompt, _Sequence(prompt)).add(completion) for prompt, completion in rows]
    longest = max(len(sequence.ids) for sequence in sequences.values())
    if len(sequences) * longest > _PAYS * ids_bt.numel() or len(sequences) * longest**2 > _MOST:
        return None
    number = {prompt: at for at, prompt in enumerate(sequences)}
    prediction_indices = [
        [number[prompt] * longest + start + t for t in range(len(completion))]
        + [-1] * (completion_length - len(completion))
        for start, (prompt, completion) in zip(starts, rows, strict=True)
    ]

    def padded(name: str, filler: int) -> Tensor:
        listed = (getattr(sequence, name) for sequence in sequences.values())
        return torch.tensor(
            [sequence + [filler] * (longest - len(sequence)) for sequence in listed], device=ids_bt.device
        )

    return Packed(
        padded("ids", 0),
        padded("positions", 0),
        padded("branches", -1),
        padded("labels", -100),
        torch.tensor(prediction_indices, device=ids_bt.device),
    )


class _Sequence:
    """A prompt, and the completions that were added to it."""

    def __init__(self, prompt: tuple[int, ...]) -> None:
        self._last, self._at = prompt[-1], len(prompt) - 1
        self.ids = list(prompt[:-1])
        self.positions = list(range(self._at))
        self.branches = [0] * self._at
        self.labels = [-100] * self._at
        self._completions = 0

    def add(self, completion: tuple[int, ...]) -> int:
        """Append a completion; return its start."""
        start = len(self.ids)
        self._completions += 1
        self.ids += [self._last, *completion[:-1]][: len(completion)]
        self.positions += range(self._at, self._at + len(completion))
        self.branches += [self._completions] * len(completion)
        self.labels += completion
        return start


def _kept(ids: list[int], mask: list[int]) -> tuple[int, ...]:
    return tuple(token for token, used in zip(ids, mask, strict=True) if used)
