"""A cache of prompts: keys and values are reused, so the samples of a question read its prompt once.

It works like vLLM's prefix caching, for whole prompts.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_MOST = 256 * 1024 * 1024  # bytes; the least recently used prompts are dropped first

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prefix:
    """One prompt: keys and values of each layer, shape (heads, tokens, width), and the logits after its end."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    logits_v: Tensor

    @property
    def nbytes(self) -> int:
        """The memory of all tensors, in bytes."""
        return self.logits_v.nbytes + sum(key.nbytes + value.nbytes for key, value in self.layers)


class Prefixes:
    """The cached prompts of one version of the weights; another version clears the cache."""

    def __init__(self) -> None:
        self._version = ""
        self._entries: OrderedDict[Ids, Prefix] = OrderedDict()
        self._nbytes = 0

    def read(
        self, model: Any, prompts: Sequence[Sequence[int]], pad_id: int, version: str
    ) -> tuple[Any, Tensor, Tensor]:
        """Run or look up the prompts; return cache, mask and logits.

        The transformers cache holds the prompts, padded left. The mask (1: a token) has shape (rows, tokens); the
        logits after each prompt have shape (rows, vocabulary).
        """
        if version != self._version:
            self._version, self._nbytes = version, 0
            self._entries.clear()
        keys = [tuple(prompt) for prompt in prompts]
        if not _whole(model):
            return _forward(model, keys, pad_id)
        new = [prompt for prompt in dict.fromkeys(keys) if prompt not in self._entries]
        if not new:
            return self._together(model, [self._used(prompt) for prompt in keys])
        cache, mask_bt, logits_bv = _forward(model, new, pad_id)
        fresh = {prompt: _prefix(cache, logits_bv, row, len(prompt)) for row, prompt in enumerate(new)}
        prefixes = [fresh.get(prompt) or self._used(prompt) for prompt in keys]
        for prompt, prefix in fresh.items():
            self._keep(prompt, prefix)
        return (cache, mask_bt, logits_bv) if new == keys else self._together(model, prefixes)

    def _used(self, prompt: Ids) -> Prefix:
        self._entries.move_to_end(prompt)
        return self._entries[prompt]

    def _keep(self, prompt: Ids, prefix: Prefix) -> None:
        self._entries[prompt] = prefix
        self._nbytes += prefix.nbytes
        while self._nbytes > _MOST:
            self._nbytes -= self._entries.popitem(last=False)[1].nbytes

    def _together(self, model: Any, prefixes: Sequence[Prefix]) -> tuple[Any, Tensor, Tensor]:
        from transformers import DynamicCache

        length_b = [prefix.layers[0][0].shape[-2] for prefix in prefixes]
        longest = max(length_b)
        cache = DynamicCache(config=model.config)
        for number in range(len(prefixes[0].layers)):
            key, value = (_padded([prefix.layers[number][part] for prefix in prefixes], longest) for part in (0, 1))
            cache.update(key, value, number)
        mask_bt = torch.tensor([[0] * (longest - length) + [1] * length for length in length_b], device=model.device)
        return cache, mask_bt, torch.stack([prefix.logits_v for prefix in prefixes])


def _forward(model: Any, prompts: Sequence[Ids], pad_id: int) -> tuple[Any, Tensor, Tensor]:
    from transformers import DynamicCache

    longest, device = max(map(len, prompts)), model.device
    ids_bt = torch.tensor([[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask_bt = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    cache = DynamicCache(config=model.config)
    position_bt = (mask_bt.cumsum(-1) - 1).clamp(min=0)
    output = model(
        input_ids=ids_bt,
        attention_mask=mask_bt,
        position_ids=position_bt,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return cache, mask_bt, output.logits[:, -1]


def _whole(model: Any) -> bool:
    """Return True if all layers keep all tokens; a sliding window drops the beginning."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _prefix(cache: Any, logits_bv: Tensor, row: int, length: int) -> Prefix:
    """Copy one row of the cache: a view would keep the whole batch in memory."""
    layers = ((layer.keys[row, :, -length:].clone(), layer.values[row, :, -length:].clone()) for layer in cache.layers)
    return Prefix(tuple(layers), logits_bv[row].clone())


def _padded(rows: Sequence[Tensor], longest: int) -> Tensor:
    """Stack tensors, padded left with zeros: shape (rows, heads, longest, width)."""
    padded = rows[0].new_zeros(len(rows), rows[0].shape[0], longest, rows[0].shape[2])
    for index, row in enumerate(rows):
        padded[index, :, longest - row.shape[1] :] = row
    return padded
