"""The forward passes of the trainers: rows as padded chunks, shared prompts, logprobs, and the critic's values.

Axes: b rows (model calls), t completion tokens. A chunk is the input of one forward and backward pass.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from trl.trainer import utils

from sia_runner.training.batch import RolloutBatch, call_length

_COMPACT = "_use_triton"  # the switch that TRL's forward reads; the kernels read another one


@contextmanager
def trl_forward(model: Any) -> Iterator[None]:
    """Restore the base model's forward afterwards, which TRL replaces, and score only requested positions.

    Without Triton TRL scores every position, prompts too, so that compiled shapes stay the same. A CPU compiles none,
    and the head of a small model costs more than its layers.
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


_SHARING_THRESHOLD = 0.7  # of the tokens that rows on their own would take
_MAX_MASK_ENTRIES = 2**28  # entries of an attention mask


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows of a chunk as sequences that share prompts: g sequences, l their tokens, b rows, t completion tokens."""

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


def can_share_prompts(model: Any) -> bool:
    """Return True if a model takes our attention mask: all layers with full attention, computed by torch."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    full = set(layers) == {"full_attention"} if layers else getattr(config, "sliding_window", None) is None
    return full and config._attn_implementation == "sdpa"


def _sharing_pays(batch: RolloutBatch, rows: Sequence[int]) -> bool:
    """Return True if `rows` share enough prompts that one pass over them saves much."""
    completion = sum(len(batch.rows[row].completion_ids) for row in rows)
    alone = sum(len(batch.rows[row].prompt_ids) for row in rows)
    shared = sum(map(len, {batch.rows[row].prompt_ids for row in rows}))
    return shared + completion < _SHARING_THRESHOLD * (alone + completion)


def pack_rows(ids_bt: Tensor, mask_bt: Tensor, completion_length: int) -> PackedRows | None:
    """Pack rows (prompts, padded left, and completions, padded right) by prompt; None if there is little to share."""
    columns = ids_bt.shape[1] - completion_length
    prompts = _unpadded(ids_bt[:, :columns], mask_bt[:, :columns])
    rows = list(zip(prompts, _unpadded(ids_bt[:, columns:], mask_bt[:, columns:]), strict=True))
    sequences: dict[tuple[int, ...], _PackedSequence] = {}
    starts = [sequences.setdefault(prompt, _PackedSequence(prompt)).add(completion) for prompt, completion in rows]
    longest = max(len(sequence.ids) for sequence in sequences.values())
    tokens = len(sequences) * longest
    if tokens > _SHARING_THRESHOLD * ids_bt.numel() or tokens * longest > _MAX_MASK_ENTRIES:
        return None
    number = {prompt: at for at, prompt in enumerate(sequences)}
    prediction_indices = [
        [number[prompt] * longest + start + t for t in range(len(completion))]
        + [-1] * (completion_length - len(completion))
        for start, (prompt, completion) in zip(starts, rows, strict=True)
    ]

    def padded(name: str, filler: int) -> Tensor:
        columns = [getattr(sequence, name) for sequence in sequences.values()]
        return torch.tensor([column + [filler] * (longest - len(column)) for column in columns], device=ids_bt.device)

    return PackedRows(
        padded("ids", 0),
        padded("positions", 0),
        padded("branches", -1),
        padded("labels", -100),
        torch.tensor(prediction_indices, device=ids_bt.device),
    )


class _PackedSequence:
    """A prompt, and the completions that were added to it."""

    def __init__(self, prompt: tuple[int, ...]) -> None:
        self._last, self._at, self._completions = prompt[-1], len(prompt) - 1, 0
        self.ids, self.positions = list(prompt[:-1]), list(range(self._at))
        self.branches, self.labels = [0] * self._at, [-100] * self._at

    def add(self, completion: tuple[int, ...]) -> int:
        """Append a completion; return its start."""
        start = len(self.ids)
        self._completions += 1
        self.ids += [self._last, *completion[:-1]][: len(completion)]
        self.positions += range(self._at, self._at + len(completion))
        self.branches += [self._completions] * len(completion)
        self.labels += completion
        return start


def _unpadded(ids_bt: Tensor, mask_bt: Tensor) -> list[tuple[int, ...]]:
    rows = zip(ids_bt.tolist(), mask_bt.tolist(), strict=True)
    return [tuple(token for token, used in zip(ids, mask, strict=True) if used) for ids, mask in rows]


class ValueHead(nn.Linear):
    """The critic's linear head on the last hidden state: (..., hidden) -> (...). It starts at zero.

    It reads detached states: an inaccurate critic cannot move the policy, though both use one copy of the weights.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return the values of hidden states."""
        return super().forward(input.detach().to(self.weight.dtype)).squeeze(-1)


# TRL's losses, by their divisor. The others ("cispo dapo vespo") divide by the tokens of the whole step.
_ROW_MEANS = frozenset({"grpo", "sapo", "luspo", "dr_grpo"})
_TOKEN_MEANS = frozenset({"bnpo"})

# The rows of one chunk for one process. -1 where another process has a row more: a stand-in row without loss.
Chunk = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Sizes of the whole step, over all processes."""

    rows: int
    tokens: int  # of completions
    processes: int

    def share(self, loss_type: str, rows: int, tokens: int) -> float:
        """Return the factor of a chunk's loss: the average over processes is then the loss of the whole step."""
        if loss_type in _ROW_MEANS:
            return rows * self.processes / self.rows
        return self.tokens_share(tokens) if loss_type in _TOKEN_MEANS else 1.0

    def tokens_share(self, tokens: int) -> float:
        """Return the factor for a mean over tokens."""
        return tokens * self.processes / self.tokens


def chunk_token_limit(max_length: int) -> int:
    """Return the padded tokens of a chunk: four rows of the greatest length, or as much as any machine takes."""
    return max(4 * max_length, 8192)


def deal_chunks(batch: RolloutBatch, used: Sequence[int], process: int, processes: int, limit: int) -> list[Chunk]:
    """Return this process's rows of `used`, in chunks of at most `limit` padded tokens (one row is always taken).

    Rows are sorted by length, then distributed in turn: little padding, nearly the same work, and the same number of
    chunks in every process, whose collective operations have to meet. Rows that share a prompt stay together if that
    saves work.
    """
    order = sorted(used, key=lambda row: (-call_length(batch.rows[row]), row))
    if _sharing_pays(batch, used):  # prompts with the longest rows first
        sharing: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row in order:
            sharing[batch.rows[row].prompt_ids].append(row)
        order = [row for rows in sharing.values() for row in rows]
    chunks: list[list[int]] = []
    prompt = completion = 0  # the longest of the last chunk
    for start in range(0, len(order), processes):
        row_set = order[start : start + processes]
        own_prompt = max(len(batch.rows[row].prompt_ids) for row in row_set)
        own_completion = max(len(batch.rows[row].completion_ids) for row in row_set)
        prompt, completion = max(prompt, own_prompt), max(completion, own_completion)
        if not chunks or (len(chunks[-1]) + 1) * (prompt + completion) > limit:
            chunks.append([])
            prompt, completion = own_prompt, own_completion
        chunks[-1].append(row_set[process] if process < len(row_set) else -1)
    return [tuple(rows) for rows in chunks]


def chunk_tensors(batch: RolloutBatch, chunk: Chunk, pad: int, device: Any) -> dict[str, torch.Tensor]:
    """Return token ids, masks and sampled logprobs: the inputs of every forward pass and of TRL's loss.

    prompt_ids, prompt_mask: (rows, prompt), padded left. completion_ids, completion_mask, old_per_token_logps: (rows,
    tokens), padded right. A row of -1 repeats the chunk's first and masks its completion.
    """
    stand_in = next((row for row in chunk if row >= 0), 0)
    rows = [batch.rows[row if row >= 0 else stand_in] for row in chunk]

    def padded(values: Iterable[Sequence[float]], filler: int, side: str, dtype: torch.dtype = torch.int64) -> Tensor:
        tensors = [torch.tensor(row_values, dtype=dtype) for row_values in values]
        return pad_sequence(tensors, batch_first=True, padding_value=filler, padding_side=side).to(device)

    own = [[int(row >= 0)] * len(call.completion_ids) for row, call in zip(chunk, rows, strict=True)]
    return {
        "prompt_ids": padded((call.prompt_ids for call in rows), pad, "left"),
        "prompt_mask": padded(([1] * len(call.prompt_ids) for call in rows), 0, "left"),
        "completion_ids": padded((call.completion_ids for call in rows), pad, "right"),
        "completion_mask": padded(own, 0, "right"),
        "old_per_token_logps": padded((call.logprobs for call in rows), 0, "right", torch.float32),
    }


ChunkInputs = dict[str, Any]  # the inputs of TRL's loss for one chunk


def summed_kl(base_bt: Tensor, part: ChunkInputs) -> Tensor:
    """Return the KL of the sampled policy to the base, summed over a chunk's tokens, in nats (Schulman 2020, k3)."""
    gap_bt = (base_bt - part["old_per_token_logps"]).clamp(max=20) * part["completion_mask"]
    return (gap_bt.exp() - gap_bt - 1).sum()


class PolicyForward:
    """Forward passes of one policy. `plain`: TRL's own, with its signature, used if no prompt is shared."""

    def __init__(self, model: Any, accelerator: Accelerator, plain: Callable[..., Any], *, critic: bool) -> None:
        base = model.get_base_model()
        self._model, self._accelerator, self._plain = model, accelerator, plain
        self._backbone = base.base_model
        self._hidden_states: Tensor | None = None  # of the last forward pass, which thereby gives the critic's values
        self._hook = self._backbone.register_forward_hook(self._keep_hidden_states) if critic else None
        self._shares = can_share_prompts(base)
        self._last_packed: PackedRows | None = None  # from the previous forward pass

    def dismantle(self) -> None:
        """Remove hooks and value head from the model."""
        if self._hook is not None:
            self._hook.remove()
            del self._model.value_head

    def _keep_hidden_states(self, module: nn.Module, args: Any, output: Any) -> None:
        self._hidden_states = output.last_hidden_state.detach()

    def logprobs(
        self, model: Any, ids_bt: Any, mask_bt: Any, completion_length: int, *rest: Any, **settings: Any
    ) -> Any:
        """Return logprobs and entropies, both (rows, tokens), and None, as the TRL method that it replaces."""
        packed = self._packed(ids_bt, mask_bt, completion_length)
        if packed is None:
            return self._plain(model, ids_bt, mask_bt, completion_length, *rest, **settings)
        with self._accelerator.autocast():
            output = model(**packed.inputs(), shift_labels=packed.label_gl, fused_lm_head=True)
        return packed.rows(output.log_probs), packed.rows(output.entropy), None

    @torch.no_grad()
    def base_logprobs(self, part: ChunkInputs) -> torch.Tensor:
        """Return logprobs of the completions under the base, at the rollouts' temperature: shape (rows, tokens)."""
        with self._model.disable_adapter():
            return self.logprobs(self._model, *whole_rows(part), part["completion_ids"].shape[1])[0]

    def chunk_values(self, part: ChunkInputs) -> torch.Tensor:
        """Return the critic's values, shape (rows, tokens), from the hidden states of the previous forward pass."""
        state, self._hidden_states = self._hidden_states, None
        if state is None:
            raise RuntimeError("no forward pass since the last call")
        completion_length = part["completion_ids"].shape[1]
        own_bt = self._last_packed.rows(state) if self._last_packed else state[:, -completion_length - 1 : -1]
        return self._model.value_head(own_bt)

    @torch.no_grad()
    def values(self, batch: RolloutBatch, chunks: Sequence[Chunk], pad: int) -> np.ndarray:
        """Return the critic's value of each token's state: float32, (rows, tokens); `chunks`: of this process."""
        value_bt = np.zeros(batch.mask_bt.shape, dtype=np.float32)
        for chunk in chunks:
            part = chunk_tensors(batch, chunk, pad, self._accelerator.device)
            ids_bt, mask_bt = whole_rows(part)
            packed = self._packed(ids_bt, mask_bt, part["completion_ids"].shape[1])
            inputs = packed.inputs() if packed else {"input_ids": ids_bt, "attention_mask": mask_bt}
            with self._accelerator.autocast():
                self._backbone(**inputs, use_cache=False)
            chunk_bt = self.chunk_values(part) * part["completion_mask"]
            rows = [row for row in chunk if row >= 0]
            value_bt[rows, : chunk_bt.shape[1]] = chunk_bt[: len(rows)].float().cpu().numpy()
        # Rows of other processes are zeros, so the sum over processes has all values.
        local = torch.from_numpy(value_bt).to(self._accelerator.device)
        total = cast(torch.Tensor, self._accelerator.reduce(local, reduction="sum"))
        return total.cpu().numpy()

    def _packed(self, ids_bt: torch.Tensor, mask_bt: torch.Tensor, completion_length: int) -> PackedRows | None:
        self._last_packed = pack_rows(ids_bt, mask_bt, completion_length) if self._shares else None
        return self._last_packed


def sum_over_processes(accelerator: Accelerator, local: torch.Tensor) -> float:
    """Return the sum over all processes."""
    return float(cast(torch.Tensor, accelerator.reduce(local.detach().float(), reduction="sum")))


def whole_rows(part: ChunkInputs) -> tuple[Tensor, Tensor]:
    """Return ids and mask of prompt and completion together: shape (rows, prompt + tokens)."""
    ids_bt, mask_bt = (
        torch.cat([part[f"prompt_{what}"], part[f"completion_{what}"]], dim=1) for what in ("ids", "mask")
    )
    return ids_bt, mask_bt
