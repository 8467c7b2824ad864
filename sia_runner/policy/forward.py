"""The forward passes of a learner: rows in chunks, shared prompts, logprobs, and the critic's values.

Axes: b rows (a prompt and a completion), t completion tokens, g sequences, l their tokens. A chunk is the input of one
forward and backward pass.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from trl.trainer import utils

from sia_runner.policy.fit import pass_tokens
from sia_runner.wire.learning import ForwardPass, RowNumbers, TokenWeights, TrainingRow

_COMPACT = "_use_triton"  # the switch that TRL's head reads; the kernels read another one
_SHARING_THRESHOLD = 0.7  # of the tokens that rows on their own would take
_MAX_MASK_ENTRIES = 2**28  # entries of an attention mask
_MAX_SEQUENCE = 2048  # tokens of several prompts in one sequence: attention reads all pairs of them, masked ones too


@contextmanager
def fused_head(model: Any, temperature: float) -> Iterator[None]:
    """Give a base model TRL's head, which scores tokens without holding all logits; restore its forward afterwards.

    Without Triton TRL scores every position, prompts too, so that compiled shapes stay the same. A CPU compiles none,
    and the head of a small model costs more than its layers, so only requested positions are scored.
    """
    before = getattr(utils, _COMPACT)
    setattr(utils, _COMPACT, lambda _: True)
    try:
        utils.add_fused_lm_head(model, temperature, outputs=("log_probs", "entropy"))
        yield
    finally:
        setattr(utils, _COMPACT, before)
        vars(model).pop("forward", None)
        if model.is_activation_checkpointing:
            model.activation_checkpointing_disable()
            model.disable_input_require_grads()


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows of a chunk as sequences, padded right, which may share prompts, and what several prompts begin with."""

    ids_gl: Tensor
    position_gl: Tensor
    prompt_gl: Tensor  # 0: what all prompts have in common; k: of the k-th prompt and its completions; -1: padding
    branch_gl: Tensor  # 0: prompt; k: the k-th completion of the sequence; -1: padding
    label_gl: Tensor  # the token that is predicted; -100: none
    position_bt: Tensor  # index in the flattened (g, l) where a completion token is predicted; -1: padding
    shared: bool  # whether a sequence has more than one completion

    def inputs(self) -> dict[str, Tensor]:
        """Return the inputs for a transformers model; rows on their own need no mask, since padding is on the right."""
        if not self.shared:
            return {"input_ids": self.ids_gl}
        tokens = self.ids_gl.shape[1]
        past_ll = torch.ones(tokens, tokens, dtype=torch.bool, device=self.ids_gl.device).tril()
        seen_gll = past_ll & _own_or_common(self.prompt_gl) & _own_or_common(self.branch_gl)
        return {"input_ids": self.ids_gl, "position_ids": self.position_gl, "attention_mask": seen_gll[:, None]}

    def rows(self, value_gl: Tensor) -> Tensor:
        """Return the values at each completion token's prediction: (g, l, ...) -> (b, t, ...), 0 on padding."""
        value_bt = value_gl.flatten(0, 1)[self.position_bt.clamp(min=0)]
        missing = self.position_bt < 0
        return value_bt.masked_fill(missing.reshape(*missing.shape, *[1] * (value_bt.dim() - 2)), 0)


def _own_or_common(number_gl: Tensor) -> Tensor:
    """Return whether each token (second axis) may see each other one (third): those of its number, and of 0."""
    return (number_gl[:, None, :] == number_gl[:, :, None]) | (number_gl[:, None, :] == 0)


def can_share_prompts(model: Any) -> bool:
    """Return True if a model takes our attention mask: all layers with full attention, computed by torch."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    full = set(layers) == {"full_attention"} if layers else getattr(config, "sliding_window", None) is None
    return full and config._attn_implementation == "sdpa"


def pack_rows(rows: Sequence[TrainingRow], device: Any, *, share: bool = True) -> PackedRows:
    """Pack rows as one sequence, or by prompt, if they may share tokens and that saves much; else each row alone."""
    if share:
        packed = _pack([row.prompt_ids for row in rows], rows, device)
        groups, longest = packed.ids_gl.shape
        alone = len(rows) * max(map(_row_length, rows))
        size = _SharedTokens(rows)
        if size.in_one_sequence <= min(_SHARING_THRESHOLD * min(alone, groups * longest), _MAX_SEQUENCE):
            return _pack([0] * len(rows), rows, device, size.beginning)
        if groups * longest <= min(_SHARING_THRESHOLD * alone, _MAX_MASK_ENTRIES / longest):
            return packed
    return _pack(range(len(rows)), rows, device)


def _pack(keys: Sequence[Any], rows: Sequence[TrainingRow], device: Any, beginning: int = 0) -> PackedRows:
    """Put the rows of equal keys into one sequence; all their prompts have the first `beginning` tokens in common."""
    sequences: dict[Any, _PackedSequence] = {}
    starts = [
        sequences.setdefault(key, _PackedSequence(row.prompt_ids[:beginning])).add(row)
        for key, row in zip(keys, rows, strict=True)
    ]
    longest = max(len(sequence.ids) for sequence in sequences.values())
    number = {key: at for at, key in enumerate(sequences)}
    width = max(len(row.completion_ids) for row in rows)
    prediction_indices = [
        [number[key] * longest + start + t for t in range(len(row.completion_ids))]
        + [-1] * (width - len(row.completion_ids))
        for start, key, row in zip(starts, keys, rows, strict=True)
    ]

    def padded(name: str, filler: int) -> Tensor:
        columns = [getattr(sequence, name) for sequence in sequences.values()]
        return torch.tensor([column + [filler] * (longest - len(column)) for column in columns], device=device)

    return PackedRows(
        padded("ids", 0),
        padded("positions", 0),
        padded("prompts", -1),
        padded("branches", -1),
        padded("labels", -100),
        torch.tensor(prediction_indices, device=device),
        len(sequences) < len(rows),
    )


class _PackedSequence:
    """A sequence of what some prompts begin with, then each prompt's rest and its completions."""

    def __init__(self, beginning: tuple[int, ...]) -> None:
        self._beginning, self._numbers, self._completions = len(beginning), dict[tuple[int, ...], int](), 0
        self.ids, self.positions = list(beginning), list(range(len(beginning)))
        self.prompts, self.branches, self.labels = [0] * len(beginning), [0] * len(beginning), [-100] * len(beginning)

    def add(self, row: TrainingRow) -> int:
        """Append a completion, and its prompt if it is new; return the completion's start."""
        prompt, completion, last = row.prompt_ids, row.completion_ids, len(row.prompt_ids) - 1
        if prompt not in self._numbers:
            self._numbers[prompt] = len(self._numbers) + 1
            rest = prompt[self._beginning : last]
            self._append(rest, range(self._beginning, last), self._numbers[prompt], 0, [-100] * len(rest))
        start = len(self.ids)
        self._completions += 1
        read = [prompt[last], *completion[:-1]][: len(completion)]
        places = range(last, last + len(completion))
        self._append(read, places, self._numbers[prompt], self._completions, completion)
        return start

    def _append(
        self, ids: Sequence[int], positions: Iterable[int], prompt: int, branch: int, labels: Iterable[int]
    ) -> None:
        self.ids += ids
        self.positions += positions
        self.prompts += [prompt] * len(ids)
        self.branches += [branch] * len(ids)
        self.labels += labels


class _SharedTokens:
    """The tokens of rows where equal prompts are read once, and where what all prompts begin with is, too."""

    def __init__(self, rows: Iterable[TrainingRow] = ()) -> None:
        self._prompts, self._first, self.beginning = set[tuple[int, ...]](), (), 0
        self.by_prompt = 0
        for row in rows:
            self.add(row)

    @property
    def in_one_sequence(self) -> int:
        """Return the tokens of all rows one after the other, after what their prompts begin with."""
        return self.by_prompt - self.beginning * max(0, len(self._prompts) - 1)

    @property
    def packed(self) -> int:
        """Return the tokens that `pack_rows` makes of rows that share much; padding is not among them."""
        length = self.in_one_sequence
        return length if length <= min(_SHARING_THRESHOLD * self.by_prompt, _MAX_SEQUENCE) else self.by_prompt

    def add(self, row: TrainingRow) -> None:
        """Add a row."""
        self.by_prompt += len(row.completion_ids)
        if row.prompt_ids not in self._prompts:
            self.by_prompt += len(row.prompt_ids)
            if not self._prompts:
                self._first, self.beginning = row.prompt_ids, len(row.prompt_ids) - 1
            self.beginning = _equal_tokens(self._first, row.prompt_ids, self.beginning)
            self._prompts.add(row.prompt_ids)


def _equal_tokens(first: tuple[int, ...], second: tuple[int, ...], limit: int) -> int:
    """Return how many tokens both begin with, at most `limit` and all but the last of `second`."""
    limit = min(limit, len(second) - 1)
    pairs = zip(first[:limit], second[:limit], strict=True)
    return next((at for at, pair in enumerate(pairs) if pair[0] != pair[1]), limit)


def _row_length(row: TrainingRow) -> int:
    return len(row.prompt_ids) + len(row.completion_ids)


def _sharing_pays(rows: Sequence[TrainingRow]) -> bool:
    """Return True if `rows` share so many tokens that one pass over them saves much."""
    shared = _SharedTokens(rows)
    return min(shared.by_prompt, shared.in_one_sequence) < _SHARING_THRESHOLD * sum(map(_row_length, rows))


class _ChunkSize:
    """The tokens of a chunk in the process that has most of it."""

    def __init__(self, processes: int) -> None:
        self._rows = self._prompt = self._completion = 0  # rows, and the longest of each of their parts
        self._shared = [_SharedTokens() for _ in range(processes)]

    @property
    def padded(self) -> int:
        """Return the tokens where each row is a sequence of its own."""
        return self._rows * (self._prompt + self._completion)

    @property
    def packed(self) -> int:
        """Return the tokens where rows share what they have in common."""
        return max(shared.packed for shared in self._shared)

    def add(self, groups: Sequence[Sequence[TrainingRow]]) -> None:
        """Add a group for each process; the last ones may have none."""
        rows = [row for group in groups for row in group]
        self._rows += max(map(len, groups))
        self._prompt = max(self._prompt, *(len(row.prompt_ids) for row in rows))
        self._completion = max(self._completion, *(len(row.completion_ids) for row in rows))
        for shared, group in zip(self._shared, groups, strict=False):
            for row in group:
                shared.add(row)


# The rows of one chunk for one process, by their numbers.
Chunk = tuple[int, ...]


def deal_chunks(
    rows: Sequence[TrainingRow],
    process: int = 0,
    processes: int = 1,
    together: Sequence[Sequence[int]] = (),
    max_length: int | None = None,
    *,
    keep_empty: bool = False,
    fused_attention: bool = True,
    most_tokens: int | None = None,
    share: bool = True,
) -> list[Chunk]:
    """Return this process's rows in chunks of `fit.pass_tokens` for rows of `max_length` (None: of the longest row).

    Groups (rows that belong to none are one each) are sorted by length, then dealt in turn: little padding, and nearly
    the same work in every process. Those that share a prompt stay together if that saves work and the model allows it
    (`share`). A group is always taken, however long it is. With `most_tokens` a chunk has at most so many, and what
    rows share counts once. With `keep_empty` all processes get the same number of chunks.
    """
    if not rows:
        return []
    limit = pass_tokens(max_length or max(map(_row_length, rows)), fused_attention=fused_attention)
    grouped = {row for group in together for row in group}
    groups = [tuple(group) for group in together] + [(row,) for row in range(len(rows)) if row not in grouped]
    order = sorted(groups, key=lambda group: (-max(_row_length(rows[row]) for row in group), group))
    shares = share and _sharing_pays(rows)
    if shares:  # prompts with the longest rows first
        sharing: dict[tuple[int, ...], list[Chunk]] = defaultdict(list)
        for group in order:
            sharing[rows[group[0]].prompt_ids].append(group)
        order = [group for equal in sharing.values() for group in equal]
    chunks: list[list[int]] = []
    size = _ChunkSize(processes)
    for start in range(0, len(order), processes):
        hand = order[start : start + processes]
        groups_of_rows = [[rows[row] for row in group] for group in hand]
        size.add(groups_of_rows)
        tokens = size.packed if shares else size.padded
        if not chunks or size.padded > limit or (most_tokens is not None and tokens > most_tokens):
            chunks.append([])
            size = _ChunkSize(processes)
            size.add(groups_of_rows)
        if process < len(hand):
            chunks[-1] += hand[process]
    return [tuple(chunk) for chunk in chunks if chunk or keep_empty]


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


@dataclass(frozen=True, slots=True)
class ChunkOutput:
    """A model's results for one chunk: (rows, tokens), 0 on padding, with gradients."""

    logprob_bt: Tensor
    entropy_bt: Tensor
    value_bt: Tensor | None
    length_b: tuple[int, ...]

    def forward_pass(self, chunk: Chunk) -> ForwardPass:
        """Return the numbers, without gradients."""
        values = None if self.value_bt is None else self._rows(self.value_bt)
        return ForwardPass(chunk, self._rows(self.logprob_bt), float(self.entropy_bt.detach().double().sum()), values)

    def loss(self, weights: TokenWeights) -> Tensor:
        """Return the sum of weight * logprob and of weight * value."""
        loss = (self._padded(weights.logprobs) * self.logprob_bt).sum()
        if weights.values is not None and self.value_bt is not None:
            loss = loss + (self._padded(weights.values) * self.value_bt).sum()
        return loss

    def _rows(self, number_bt: Tensor) -> RowNumbers:
        array_bt = number_bt.detach().double().cpu().numpy()
        return [array_t[:length] for array_t, length in zip(array_bt, self.length_b, strict=True)]

    def _padded(self, numbers: RowNumbers) -> Tensor:
        array_bt = np.zeros(self.logprob_bt.shape)
        for array_t, length, number_t in zip(array_bt, self.length_b, numbers, strict=True):
            array_t[:length] = number_t
        return torch.from_numpy(array_bt).to(self.logprob_bt)


class PolicyForward:
    """The forward passes of one PEFT model with a fused head, and with a critic if there is a value head."""

    def __init__(self, model: Any, value_head: ValueHead | None) -> None:
        base = model.get_base_model()
        self._model, self._value_head, self.shares = model, value_head, can_share_prompts(base)
        self._state_glh: Tensor | None = None  # of the last forward pass, which thereby gives the critic's values
        self._hook = base.base_model.register_forward_hook(self._keep_hidden_states) if value_head else None

    def close(self) -> None:
        """Remove the hook from the model."""
        if self._hook is not None:
            self._hook.remove()

    def run(self, rows: Sequence[TrainingRow]) -> ChunkOutput:
        """Run the model over the rows of one chunk."""
        packed = pack_rows(rows, self._model.device, share=self.shares)
        with self._autocast():
            output = self._model(**packed.inputs(), shift_labels=packed.label_gl, fused_lm_head=True)
        state_glh, self._state_glh = self._state_glh, None
        value_bt = None
        if self._value_head is not None and state_glh is not None:
            used_bt = packed.position_bt >= 0
            value_bt = self._value_head(packed.rows(state_glh)) * used_bt
        lengths = tuple(len(row.completion_ids) for row in rows)
        return ChunkOutput(packed.rows(output.log_probs), packed.rows(output.entropy), value_bt, lengths)

    def _autocast(self) -> AbstractContextManager[Any]:
        device = self._model.device.type
        return nullcontext() if device == "cpu" else torch.autocast(device, torch.bfloat16)

    def _keep_hidden_states(self, module: nn.Module, args: Any, output: Any) -> None:
        self._state_glh = output.last_hidden_state.detach()
