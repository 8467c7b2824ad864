"""A layer of transformers' cache that is not copied whole for each token."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # tokens for which there is room after a copy


class RoomyLayer(DynamicLayer):
    """Keys and values of shape (rows, heads, tokens, width), as views of larger tensors that have room for more."""

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[Tensor, Tensor] | None = None  # what keys and values are the first tokens of

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append tokens; return all keys and values."""
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self._room is None or self._room[0].shape[-2] < after:
            self._room = (_with_room(self.keys, key_states, after), _with_room(self.values, value_states, after))
        for buffer, states in zip(self._room, (key_states, value_states), strict=True):
            buffer[..., before:after, :] = states
        self.keys, self.values = (buffer[..., :after, :] for buffer in self._room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only, with their room."""
        if self._room is None:
            super().batch_select_indices(indices)
        else:
            self._take(self._room[0][indices], self._room[1][indices], self.get_seq_length())

    def append_rows(self, other: "RoomyLayer", length: int) -> None:
        """Append the rows of another layer; of all rows the last `length` tokens are kept."""
        own, more = ([layer.keys, layer.values] for layer in (self, other))
        keys, values = (_stacked(*pair, length) for pair in zip(own, more, strict=True))
        self._take(keys, values, length)

    def _take(self, keys: Tensor, values: Tensor, length: int) -> None:
        self._room = (keys, values)
        self.keys, self.values = (buffer[..., :length, :] for buffer in self._room)


def append_rows(
    layers: Sequence[RoomyLayer], mask_bt: Tensor, others: Sequence[RoomyLayer], other_mask_bt: Tensor
) -> Tensor:
    """Append the rows of `others` to `layers`; return the mask of all rows, which end at the same column."""
    length = max(_span(mask_bt), _span(other_mask_bt))
    for layer, other in zip(layers, others, strict=True):
        layer.append_rows(other, length)
    return _stacked(mask_bt[:, None, :, None], other_mask_bt[:, None, :, None], length, room=0)[:, 0, :, 0]


def _span(mask_bt: Tensor) -> int:
    """Return the number of columns from the first one that any row uses."""
    return mask_bt.shape[1] - int(mask_bt.any(0).int().argmax())


def _stacked(first: Any, second: Any, length: int, room: int = _ROOM) -> Tensor:
    """Return the rows of both, (rows, heads, tokens, width), with their last tokens at `length`, and zeros before."""
    rows, heads, _, width = first.shape
    buffer = first.new_zeros(rows + len(second), heads, length + room, width)
    for part, target in ((first, buffer[:rows]), (second, buffer[rows:])):
        tokens = min(part.shape[2], length)
        target[:, :, length - tokens : length] = part[:, :, part.shape[2] - tokens :]
    return buffer


def _with_room(tokens: Any, states: Tensor, length: int) -> Tensor:
    rows, heads, _, width = states.shape
    buffer = states.new_empty(rows, heads, length + _ROOM, width)
    if tokens is not None and tokens.numel():
        buffer[..., : tokens.shape[-2], :] = tokens
    return buffer
