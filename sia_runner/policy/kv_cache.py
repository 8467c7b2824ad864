"""A layer of transformers' cache that is not copied whole for each token."""

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
        """Keep these rows only; the next token finds room again."""
        super().batch_select_indices(indices)
        self._room = None


def _with_room(tokens: Any, states: Tensor, length: int) -> Tensor:
    rows, heads, _, width = states.shape
    buffer = states.new_empty(rows, heads, length + _ROOM, width)
    if tokens is not None and tokens.numel():
        buffer[..., : tokens.shape[-2], :] = tokens
    return buffer
