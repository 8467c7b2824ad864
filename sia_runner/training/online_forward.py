"""The forward passes of the online trainer: logprobs and entropies of completions, and the critic's values.

Prompts that rows share are read once (sharing.py). Axes: b rows (model calls), t completion tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator

from sia_runner.training import driver_rows, sharing
from sia_runner.training.batch import Batch
from sia_runner.training.value import HiddenStates, ValueHead

Part = dict[str, Any]  # the inputs of TRL's loss for one chunk


class Forward:
    """Forward passes of one policy. `plain`: TRL's own, with its signature, used if no prompt is shared."""

    def __init__(self, model: Any, accelerator: Accelerator, plain: Callable[..., Any], *, critic: bool) -> None:
        base = model.get_base_model()
        self._model, self._accelerator, self._plain = model, accelerator, plain
        self._backbone = base.base_model
        self._hidden = HiddenStates(self._backbone) if critic else None
        self._shares = sharing.possible(base)
        self._last_packed: sharing.Packed | None = None  # from the previous forward pass

    def dismantle(self) -> None:
        """Remove hooks and value head from the model."""
        if self._hidden is not None:
            self._hidden.forget()
            del self._model.value_head

    def logprobs(
        self, model: Any, ids_bt: Any, mask_bt: Any, completion_length: int, *rest: Any, **settings: Any
    ) -> Any:
        """Return logprobs and entropies, both (rows, tokens), and None.

        The signature is that of TRL's `_get_per_token_logps_and_entropies`.
        """
        packed = self._packed(ids_bt, mask_bt, completion_length)
        if packed is None:
            return self._plain(model, ids_bt, mask_bt, completion_length, *rest, **settings)
        with self._accelerator.autocast():
            output = model(**packed.inputs(), shift_labels=packed.label_gl, fused_lm_head=True)
        return packed.rows(output.log_probs), packed.rows(output.entropy), None

    @torch.no_grad()
    def base_logprobs(self, part: Part) -> torch.Tensor:
        """Return logprobs of the completions under the base, at the rollouts' temperature: shape (rows, tokens)."""
        with self._model.disable_adapter():
            return self.logprobs(self._model, _joined(part), _joined(part, "mask"), part["completion_ids"].shape[1])[0]

    def chunk_values(self, part: Part) -> torch.Tensor:
        """Return the critic's values, shape (rows, tokens), from the hidden states of the previous forward pass."""
        if self._hidden is None:
            raise RuntimeError("there is no critic")
        state, completion_length = self._hidden.last(), part["completion_ids"].shape[1]
        head = cast(ValueHead, self._model.value_head)
        return head(self._last_packed.rows(state) if self._last_packed else state[:, -completion_length - 1 : -1])

    @torch.no_grad()
    def values(self, batch: Batch, chunks: Sequence[driver_rows.Chunk], pad: int) -> np.ndarray:
        """Return the critic's value of each token's state: float32, shape (rows, tokens).

        `chunks`: the rows of this process.
        """
        value_bt = np.zeros(batch.mask_bt.shape, dtype=np.float32)
        for chunk in chunks:
            part = driver_rows.tensors(batch, chunk, pad, self._accelerator.device)
            packed = self._packed(_joined(part), _joined(part, "mask"), part["completion_ids"].shape[1])
            plain = {"input_ids": _joined(part), "attention_mask": _joined(part, "mask")}
            with self._accelerator.autocast():
                self._backbone(**(packed.inputs() if packed else plain), use_cache=False)
            chunk_bt = self.chunk_values(part) * part["completion_mask"]
            rows = [row for row in chunk.row_b if row >= 0]
            value_bt[rows, : chunk_bt.shape[1]] = chunk_bt[: len(rows)].float().cpu().numpy()
        # Rows of other processes are zeros, so the sum over processes has all values.
        local = torch.from_numpy(value_bt).to(self._accelerator.device)
        total = cast(torch.Tensor, self._accelerator.reduce(local, reduction="sum"))
        return total.cpu().numpy()

    def _packed(self, ids_bt: torch.Tensor, mask_bt: torch.Tensor, completion_length: int) -> sharing.Packed | None:
        self._last_packed = sharing.pack(ids_bt, mask_bt, completion_length) if self._shares else None
        return self._last_packed


def summed(accelerator: Accelerator, local: torch.Tensor) -> float:
    """Return the sum over all processes."""
    return float(cast(torch.Tensor, accelerator.reduce(local.detach().float(), reduction="sum")))


def _joined(part: Part, what: str = "ids") -> torch.Tensor:
    """Concatenate prompt and completion: shape (rows, prompt + tokens)."""
    return torch.cat([part[f"prompt_{what}"], part[f"completion_{what}"]], dim=1)
