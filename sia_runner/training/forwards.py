"""The base model's forward pass as TRL's trainers want it, for as long as they train."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trl.trainer import utils

_COMPACT = "_use_triton"  # where the forward asks whether to; the kernels ask in a module of their own


@contextmanager
def own_forward(model: Any) -> Iterator[None]:
    """TRL replaces the base model's forward with one that can skip the logits, and may turn on activation
    checkpointing; afterwards the model is as it was.

    Without Triton TRL scores every position, prompts too, so that compiled shapes stay the same. A CPU compiles none,
    and the head of a small model costs more than its layers: as with Triton, only what is asked for is scored."""
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
