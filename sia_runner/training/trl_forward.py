"""The base model's forward pass as TRL's trainers need it, while they train."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trl.trainer import utils

_COMPACT = "_use_triton"  # the switch that the forward reads; the kernels read another one


@contextmanager
def trl_forward(model: Any) -> Iterator[None]:
    """Restore the base model's forward afterwards, which TRL replaces, and score only requested positions.

    TRL installs a forward that can skip the logits, and may turn on activation checkpointing. Without Triton it scores
    every position, prompts too, so that compiled shapes stay the same. A CPU compiles none, and the head of a small
    model costs more than its layers: as with Triton, only requested positions are scored.
    """
    before = getattr(utils, _COMPACT)
    setattr(utils, _COMPACT, lambda _: True)
    try:
        yield
    finally:
        setattr(utils, _COMPACT, before)
        vars(model).pop("forward", None)
        if model.is_activation_checkpointing:
            model.activation_checkpointing_disable()
            model.disable_input_require_grads()
