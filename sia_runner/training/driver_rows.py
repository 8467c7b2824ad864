"""The tensors of a step's rows for TRL's loss: rows are distributed to processes, cut into chunks, and padded.

Axes: b rows (model calls), t completion tokens. A chunk is the input of one forward and backward pass.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sia_runner.training.algorithms.protocol import Signal
from sia_runner.training.batch import Batch, length
from sia_runner.training.sharing import pays

# TRL's losses, by their divisor. The others ("cispo dapo vespo") divide by the tokens of the whole step.
ROW_MEANS = frozenset({"grpo", "sapo", "luspo", "dr_grpo"})
TOKEN_MEANS = frozenset({"bnpo"})


@dataclass(frozen=True, slots=True)
class Chunk:
    """The rows of one chunk for one process.

    -1 where another process has a row more: a stand-in row without loss.
    """

    row_b: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sizes of the whole step, over all processes."""

    rows: int
    tokens: int  # of completions
    processes: int

    def share(self, loss_type: str, rows: int, tokens: int) -> float:
        """Return the factor of a chunk's loss, so that the average over processes is the loss of the whole step.

        `rows` counts the chunk's rows, also those without loss; `tokens` its own tokens.
        """
        if loss_type in ROW_MEANS:
            return rows * self.processes / self.rows
        return self.tokens_share(tokens) if loss_type in TOKEN_MEANS else 1.0

    def tokens_share(self, tokens: int) -> float:
        """Return the factor for a mean over tokens."""
        return tokens * self.processes / self.tokens


def bound(max_length: int) -> int:
    """Return the padded tokens of a chunk: four rows of the greatest length, or as much as any machine takes."""
    return max(4 * max_length, 8192)


def deal(batch: Batch, used: Sequence[int], process: int, processes: int, limit: int) -> list[Chunk]:
    """Return this process's rows of `used`, in chunks of at most `limit` padded tokens (one row is always taken).

    Rows are sorted by length, then distributed in turn: little padding, the same number of chunks in every process
    (their collective operations have to meet), and nearly the same work. Rows that share a prompt stay together if that
    saves work.
    """
    order = _by_prompt(batch, used) if pays(batch, used) else sorted(used, key=_by_length(batch))
    rounds = [order[start : start + processes] for start in range(0, len(order), processes)]
    chunks: list[list[int]] = []
    prompt = completion = 0
    for row_set in rounds:
        longest = max(len(batch.rows[row].prompt_ids) for row in row_set)
        completion_length = max(len(batch.rows[row].completion_ids) for row in row_set)
        widest = max(prompt, longest) + max(completion, completion_length)
        if not chunks or (len(chunks[-1]) + 1) * widest > limit:
            chunks.append([])
            prompt = completion = 0
        prompt, completion = max(prompt, longest), max(completion, completion_length)
        chunks[-1].append(row_set[process] if process < len(row_set) else -1)
    return [Chunk(tuple(rows)) for rows in chunks]


def _by_length(batch: Batch) -> Callable[[int], tuple[int, int]]:
    return lambda row: (-length(batch.rows[row]), row)


def _by_prompt(batch: Batch, used: Sequence[int]) -> list[int]:
    """Return rows grouped by prompt, the prompts with the longest rows first."""
    sharing: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row in used:
        sharing[batch.rows[row].prompt_ids].append(row)
    groups = [sorted(rows, key=_by_length(batch)) for rows in sharing.values()]
    return [row for rows in sorted(groups, key=lambda rows: _by_length(batch)(rows[0])) for row in rows]


def tensors(batch: Batch, chunk: Chunk, pad: int, device: Any) -> dict[str, torch.Tensor]:
    """Return token ids, masks and sampled logprobs: the inputs of every forward pass and of TRL's loss.

    prompt_ids, prompt_mask: (rows, prompt), padded left. completion_ids, completion_mask, old_per_token_logps: (rows,
    tokens), padded right. A row of -1 repeats the chunk's first and masks its completion.
    """
    stand_in = next((row for row in chunk.row_b if row >= 0), 0)
    rows = [batch.rows[row if row >= 0 else stand_in] for row in chunk.row_b]
    prompt = max(len(row.prompt_ids) for row in rows)
    completion_length = max(len(row.completion_ids) for row in rows)
    prompt_bt = np.full((len(rows), prompt), pad, dtype=np.int64)
    completion_bt = np.full((len(rows), completion_length), pad, dtype=np.int64)
    prompt_mask_bt = np.zeros((len(rows), prompt), dtype=np.int64)
    mask_bt = np.zeros((len(rows), completion_length), dtype=np.int64)
    logprob_bt = np.zeros((len(rows), completion_length), dtype=np.float32)
    for at, row in enumerate(rows):
        prompt_bt[at, prompt - len(row.prompt_ids) :] = row.prompt_ids
        prompt_mask_bt[at, prompt - len(row.prompt_ids) :] = 1
        completion_bt[at, : len(row.completion_ids)] = row.completion_ids
        logprob_bt[at, : len(row.completion_ids)] = row.logprobs
        mask_bt[at, : len(row.completion_ids)] = chunk.row_b[at] >= 0
    named = {
        "prompt_ids": prompt_bt,
        "prompt_mask": prompt_mask_bt,
        "completion_ids": completion_bt,
        "completion_mask": mask_bt,
        "old_per_token_logps": logprob_bt,
    }
    return {name: torch.from_numpy(array).to(device) for name, array in named.items()}


def targets(
    signal: Signal, value_bt: np.ndarray | None, chunk: Chunk, completion_length: int, device: Any
) -> dict[str, Any]:
    """Return the training targets of a chunk: advantages, and a critic's returns and earlier values.

    Each has shape (rows, completion_length).
    """
    rows = [max(row, 0) for row in chunk.row_b]
    named = {"advantages": signal.advantage_bt, "returns": signal.return_bt, "old_values": value_bt}
    return {
        name: torch.from_numpy(np.ascontiguousarray(array_bt[rows, :completion_length], dtype=np.float32)).to(device)
        for name, array_bt in named.items()
        if array_bt is not None
    }
