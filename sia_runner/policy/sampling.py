"""Sampling a batch from a causal language model, token by token, with a KV cache and a cache of whole prompts.

We use our own loop because each row has its own seed, temperature, top_p, limit and stop strings, and joins and leaves
the batch between two tokens; transformers' `generate` has one of each for all rows, and ends with the last of them.
"""

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from sia_runner.policy.kv_cache import RoomyLayer, append_rows

SampledTokens = tuple[list[int], list[float], str]  # ids, logprobs (natural log), finish reason: stop or length


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One prompt and its sampling settings: temperature 0 is greedy, top_p 1 the whole vocabulary."""

    prompt_ids: Sequence[int]
    limit: int  # tokens, at least 1
    temperature: float
    top_p: float
    seed: str
    stopped: Callable[[Sequence[int]], bool] = lambda ids: False  # True if these completion tokens end the answer
    withdrawn: Callable[[], bool] = lambda: False  # True if nobody wants the answer any more: it ends where it is
    ended: Callable[[SampledTokens], None] = lambda tokens: None  # is given the answer as soon as it is complete


class RowSource(Protocol):
    """Rows that wait for a place in a batch."""

    def __len__(self) -> int:
        """Return how many wait."""
        ...

    def take(self, limit: int) -> Sequence[SamplingRow]:
        """Return some of them, which wait no longer."""
        ...


def draw_tokens(
    logits_bv: Tensor, rows: Sequence[SamplingRow], uniform: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Sample one token for each row, by a number on [0, 1) for each; return the tokens and their logprobs.

    Logprobs are at the row's temperature (1 where it is 0, as every choice is certain), before top_p cuts.
    """
    device = logits_bv.device
    temperature_b = torch.tensor([row.temperature for row in rows], device=device)
    scale_b = torch.where(temperature_b > 0, temperature_b, 1.0)
    scaled_bv = logits_bv.float() / scale_b[:, None]
    # Sums in float64: in float32 one over 200,000 tokens is off by 1e-4, which changes samples near the boundaries.
    # A softmax in float64 as a whole takes four times as long.
    scaled_bv = scaled_bv - scaled_bv.max(-1, keepdim=True).values
    weight_bv = scaled_bv.exp().double()
    sum_bv = weight_bv.cumsum(-1)
    total_b1 = sum_bv[:, -1:]
    token_b = scaled_bv.argmax(-1)
    if any(row.temperature > 0 for row in rows):
        if any(row.temperature > 0 and row.top_p < 1 for row in rows):
            top_p_b = torch.tensor([row.top_p for row in rows], device=device, dtype=torch.float64)
            sum_bv = nucleus_filter(weight_bv / total_b1, top_p_b).cumsum(-1)
        target_b = torch.tensor(uniform, device=device, dtype=torch.float64) * sum_bv[:, -1]
        sampled_b = torch.searchsorted(sum_bv, target_b[:, None], right=True)[:, 0]
        sampled_b = sampled_b.clamp(max=sum_bv.shape[1] - 1)
        token_b = torch.where(temperature_b > 0, sampled_b, token_b)
    logprob_b1 = scaled_bv.gather(1, token_b[:, None]).double() - total_b1.log()
    return token_b.tolist(), logprob_b1[:, 0].tolist()


def nucleus_filter(probability_bv: Tensor, top_p_b: Tensor) -> Tensor:
    """Return the likeliest tokens that reach top_p (Holtzman et al. 2020), not renormalised: (rows, vocabulary)."""
    sorted_bv, order_bv = probability_bv.sort(descending=True, stable=True)
    before_bv = sorted_bv.cumsum(-1) - sorted_bv
    included_bv = (before_bv < top_p_b[:, None]) | (top_p_b[:, None] >= 1)  # a sum may round to 1 before its last token
    included_bv[:, 0] = True  # top_p 0 is greedy
    return torch.zeros_like(probability_bv).scatter(1, order_bv, sorted_bv * included_bv)


def uniform_numbers(row: SamplingRow) -> list[float]:
    """Return a number on [0, 1) for each token of a row, which depends on its seed alone; zeros where it is greedy.

    They are made on the CPU, so that a GPU run uses the same. The seed is hashed because torch uses only 32 bits of it.
    """
    if row.temperature == 0:
        return [0.0] * row.limit
    digest = hashlib.sha256(row.seed.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    return torch.rand(row.limit, generator=generator, dtype=torch.float64).tolist()


# Padded tokens of one pass over prompts: a pass cannot be interrupted, and takes seconds on a CPU.
_PIECE_TOKENS, _GPU_PIECE_TOKENS = 1024, 65536
_MAX_CACHE_BYTES = 256 * 1024 * 1024  # bytes; the least recently used prompts are dropped first
_MIN_SHARED = 16  # tokens at the beginning of several prompts that are worth a pass of their own
_MAX_BEGINNINGS = 4  # of prompts, which are remembered, each of at most an eighth of the bytes above

_TokenIds = tuple[int, ...]
_Layers = tuple[tuple[Tensor, Tensor], ...]  # keys and values of each layer: (heads, tokens, width)


@dataclass(frozen=True, slots=True)
class _CachedPrompt:
    """One prompt after its beginning, which other prompts may share: keys and values, and the logits after its end."""

    own: _Layers
    logits_v: Tensor
    beginning: _Layers = ()

    @property
    def layers(self) -> _Layers:
        """Return the keys and values of all its tokens."""
        return _joined(self.beginning, self.own)

    @property
    def nbytes(self) -> int:
        return self.logits_v.nbytes + _nbytes(self.own)


class PromptCache:
    """The cached prompts of one version of the weights; another version clears the cache.

    What several new prompts begin with alike (instructions, examples) is read once.
    """

    def __init__(self) -> None:
        self._version = ""
        self._entries: OrderedDict[_TokenIds, _CachedPrompt] = OrderedDict()
        self._beginnings: OrderedDict[_TokenIds, _Layers] = OrderedDict()
        self._nbytes = 0

    def read(
        self, model: Any, prompts: Sequence[Sequence[int]], pad_id: int, version: str, over: Callable[[], bool]
    ) -> tuple[Any, Tensor, Tensor] | None:
        """Run or look up the prompts; return transformers' cache of them, padded left, their mask, and the logits.

        Shapes: (rows, tokens), 1 for a token, and (rows, vocabulary). None if nobody wants the answers any more.
        """
        if version != self._version:
            self._version, self._nbytes = version, 0
            self._entries.clear()
            self._beginnings.clear()
        keys = [tuple(prompt) for prompt in prompts]
        if not _keeps_all_tokens(model):
            return _read_prompts(model, keys, pad_id)
        new = [prompt for prompt in dict.fromkeys(keys) if prompt not in self._entries]
        for prompt in keys:
            if prompt in self._entries:
                self._entries.move_to_end(prompt)
        fresh: dict[_TokenIds, _CachedPrompt] = {}
        whole = None
        for start, beginning, group in self._grouped(model, new, pad_id):
            limit = _PIECE_TOKENS if model.device.type == "cpu" else _GPU_PIECE_TOKENS
            for piece in _pieces([prompt[start:] for prompt in group], limit):
                if over():
                    return None
                reading = cache, _, logits_bv = _read_prompts(model, piece, pad_id, beginning)
                if piece == keys:
                    whole = reading
                for row, rest in enumerate(piece):
                    own, ids = _copy_row(cache, row, len(rest)), group[0][:start] + rest
                    shared = beginning if ids[:start] in self._beginnings else ()
                    layers = own if shared else _joined(beginning, own)
                    fresh[ids] = _CachedPrompt(layers, logits_bv[row].clone(), shared)
        prefixes = [fresh.get(prompt) or self._entries[prompt] for prompt in keys]
        for prompt, prefix in fresh.items():
            self._entries[prompt] = prefix
            self._nbytes += prefix.nbytes
            while self._nbytes > _MAX_CACHE_BYTES:
                self._nbytes -= self._entries.popitem(last=False)[1].nbytes
        return whole or _join_prompts(model, prefixes)

    def _grouped(
        self, model: Any, new: Sequence[_TokenIds], pad_id: int
    ) -> Iterator[tuple[int, _Layers, list[_TokenIds]]]:
        """Yield groups of prompts, with the number of tokens that were read for all of a group, and their layers."""
        groups: dict[_TokenIds, list[_TokenIds]] = {}
        for prompt in new:
            groups.setdefault(self._longest_beginning(prompt), []).append(prompt)
        for beginning, group in groups.items():
            shared, layers = _common_beginning(group), self._beginnings.get(beginning, ())
            if len(group) > 1 and len(shared) - len(beginning) >= _MIN_SHARED:
                cache, _, _ = _read_prompts(model, [shared[len(beginning) :]], pad_id, layers)
                layers = _joined(layers, _copy_row(cache, 0, len(shared) - len(beginning)))
                if _nbytes(layers) <= _MAX_CACHE_BYTES // 8:
                    self._beginnings[shared] = layers
                if len(self._beginnings) > _MAX_BEGINNINGS:
                    self._beginnings.popitem(last=False)
                yield len(shared), layers, group
            else:
                yield len(beginning), layers, group

    def _longest_beginning(self, prompt: _TokenIds) -> _TokenIds:
        fitting = [ids for ids in self._beginnings if len(ids) < len(prompt) and prompt[: len(ids)] == ids]
        longest = max(fitting, key=len, default=())
        if longest:
            self._beginnings.move_to_end(longest)
        return longest


def _nbytes(layers: _Layers) -> int:
    return sum(key.nbytes + value.nbytes for key, value in layers)


def _joined(first: _Layers, second: _Layers) -> _Layers:
    if not first:
        return second
    pairs = zip(first, second, strict=True)
    return tuple((torch.cat([k1, k2], 1), torch.cat([v1, v2], 1)) for (k1, v1), (k2, v2) in pairs)


def _common_beginning(prompts: Sequence[_TokenIds]) -> _TokenIds:
    """Return the tokens that all prompts begin with; each has at least one more."""
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    length = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), limit)
    return first[: min(length, limit)]


def _pieces(prompts: Sequence[_TokenIds], limit: int) -> list[list[_TokenIds]]:
    """Cut prompts into lists of at most `limit` padded tokens (one prompt is always taken)."""
    pieces: list[list[_TokenIds]] = []
    for prompt in prompts:
        longest = max(map(len, [prompt, *(pieces[-1] if pieces else ())]))
        if not pieces or (len(pieces[-1]) + 1) * longest > limit:
            pieces.append([])
        pieces[-1].append(prompt)
    return pieces


def _join_prompts(model: Any, prefixes: Sequence[_CachedPrompt]) -> tuple[Any, Tensor, Tensor]:
    rows = [prefix.layers for prefix in prefixes]
    lengths = [layers[0][0].shape[-2] for layers in rows]
    cache = _new_cache(model)
    for number, layers in enumerate(zip(*rows, strict=True)):
        key, value = (
            torch.stack([pad(tensor, (0, 0, max(lengths) - tensor.shape[1], 0)) for tensor in tensors])
            for tensors in zip(*layers, strict=True)
        )
        cache.update(key, value, number)
    return cache, _mask_left(lengths, model.device), torch.stack([prefix.logits_v for prefix in prefixes])


def _mask_left(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([[0] * (max(lengths) - length) + [1] * length for length in lengths], device=device)


def _read_prompts(
    model: Any, prompts: Sequence[_TokenIds], pad_id: int, beginning: _Layers = ()
) -> tuple[Any, Tensor, Tensor]:
    """Run the prompts, all of which come after `beginning`; its tokens are the first in mask and cache."""
    lengths = [len(prompt) for prompt in prompts]
    padded = [[pad_id] * (max(lengths) - len(prompt)) + list(prompt) for prompt in prompts]
    ids_bt, mask_bt = torch.tensor(padded, device=model.device), _mask_left(lengths, model.device)
    cache = _new_cache(model)
    for number, pair in enumerate(beginning):
        key, value = (tensor.expand(len(prompts), *tensor.shape) for tensor in pair)
        cache.update(key, value, number)
    if beginning:
        mask_bt = torch.cat([mask_bt.new_ones(len(prompts), beginning[0][0].shape[1]), mask_bt], dim=1)
    position_bt = (mask_bt.cumsum(-1) - 1).clamp(min=0)[:, -ids_bt.shape[1] :]
    settings = {"attention_mask": mask_bt, "position_ids": position_bt, _cache_argument(model): cache}
    # An index copies the last states. As a view of all of them they would be multiplied with the head row by row.
    last = torch.tensor([ids_bt.shape[1] - 1], device=model.device)
    output = model(input_ids=ids_bt, use_cache=True, logits_to_keep=last, **settings)
    return cache, mask_bt, output.logits[:, -1]


def _cache_argument(model: Any) -> str:
    """Return the cache's name in the model's forward: newer versions of transformers warn of the older name."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "cache" if "cache" in inspect.signature(type(base).forward).parameters else "past_key_values"


def _keeps_all_tokens(model: Any) -> bool:
    """Return True if all layers keep all tokens; a sliding window drops the beginning."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _new_cache(model: Any) -> Any:
    """Return an empty cache of transformers; layers that keep all tokens get room for more than they hold."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _copy_row(cache: Any, row: int, length: int) -> _Layers:
    """Copy the last tokens of one row of the cache: a view would keep the whole batch in memory."""
    pairs = ((layer.keys[row, :, -length:].clone(), layer.values[row, :, -length:].clone()) for layer in cache.layers)
    return tuple(pairs)


class _LiveRow:
    """A row in a batch, with the tokens that it has so far."""

    def __init__(self, row: SamplingRow) -> None:
        self.row, self.is_over = row, False
        self.ids: list[int] = []
        self._logprobs: list[float] = []
        self._uniform = uniform_numbers(row)

    @property
    def uniform(self) -> float:
        """Return the number that draws the next token; any number once the row is over."""
        return 0.0 if self.is_over else self._uniform[len(self.ids)]

    def add(self, token: int, logprob: float, end_ids: frozenset[int]) -> None:
        """Append a token; the one that ends an answer belongs to it, as it was sampled and is trained on."""
        self.ids.append(token)
        self._logprobs.append(min(logprob, 0.0))  # log_softmax of a certain token may round to above 0
        if token in end_ids or self.row.stopped(self.ids):
            self.end("stop")
        elif len(self.ids) >= self.row.limit or self.row.withdrawn():
            self.end("length")

    def end(self, finish_reason: str) -> None:
        """Give the answer to whoever asked."""
        self.is_over = True
        self.row.ended((self.ids, self._logprobs, finish_reason))


class _Batch:
    """Rows that are decoded together, a token of each at a time, with one version of the weights."""

    def __init__(self, model: Any, pad_id: int, prefixes: PromptCache, version: str) -> None:
        self._model, self._pad_id, self._prefixes, self._version = model, pad_id, prefixes, version
        self._cache_argument = _cache_argument(model)
        self._cache: Any = None
        self._mask_bt = self._position_b1 = self._logits_bv = torch.empty(0)
        self.rows: list[_LiveRow] = []

    @property
    def active(self) -> int:
        """Return how many rows go on."""
        return sum(not live.is_over for live in self.rows)

    def add(self, rows: Sequence[SamplingRow]) -> None:
        """Read the prompts of more rows, whose next token is then drawn with those of the others."""
        lives = [_LiveRow(row) for row in rows]
        prompts = [row.prompt_ids for row in rows]

        def over() -> bool:
            return all(row.withdrawn() for row in rows)

        read = self._prefixes.read(self._model, prompts, self._pad_id, self._version, over)
        if read is None:
            for live in lives:
                live.end("length")
            return
        cache, mask_bt, logits_bv = read
        position_b1 = mask_bt.sum(-1, keepdim=True) - 1
        if self.rows:
            mask_bt = append_rows(self._cache.layers, self._mask_bt, cache.layers, mask_bt)
            position_b1 = torch.cat([self._position_b1, position_b1])
            logits_bv = torch.cat([self._logits_bv, logits_bv])
        else:
            self._cache = cache
        self._mask_bt, self._position_b1, self._logits_bv = mask_bt, position_b1, logits_bv
        self.rows += lives

    def draw(self, end_ids: frozenset[int]) -> None:
        """Draw a token of each row that goes on."""
        rows = [live.row for live in self.rows]
        tokens, logprobs = draw_tokens(self._logits_bv, rows, [live.uniform for live in self.rows])
        for live, token, logprob in zip(self.rows, tokens, logprobs, strict=True):
            if not live.is_over:
                live.add(token, logprob, end_ids)

    def drop_ended(self) -> None:
        """Keep the rows that go on, of which there is at least one."""
        active = [at for at, live in enumerate(self.rows) if not live.is_over]
        if len(active) == len(self.rows):
            return
        active_b = torch.tensor(active, device=self._model.device)
        self._cache.batch_select_indices(active_b)
        self._mask_bt, self._position_b1 = self._mask_bt[active_b], self._position_b1[active_b]
        self.rows = [self.rows[at] for at in active]

    def step(self) -> None:
        """Run the model over the last token of each row."""
        self._mask_bt = torch.cat([self._mask_bt, self._mask_bt.new_ones(len(self.rows), 1)], dim=1)
        going_on = [[int(not live.is_over)] for live in self.rows]  # a row that is over may be at the context's end
        self._position_b1 = self._position_b1 + torch.tensor(going_on, device=self._model.device)
        ids_b1 = torch.tensor([live.ids[-1:] for live in self.rows], device=self._model.device)
        settings = {
            "attention_mask": self._mask_bt,
            "position_ids": self._position_b1,
            self._cache_argument: self._cache,
        }
        self._logits_bv = self._model(input_ids=ids_b1, use_cache=True, **settings).logits[:, -1]


@torch.no_grad()  # not inference_mode: buffers that a model makes lazily are needed by training later
def sample_batch(
    model: Any,
    rows: Sequence[SamplingRow],
    pad_id: int,
    end_ids: frozenset[int],
    prefixes: PromptCache,
    version: str,
    source: RowSource | None = None,
    capacity: int = 0,
) -> None:
    """Answer rows, each when its last token is drawn; `model` is in eval mode, and of `version`.

    Rows of `source` take the places of those that ended, up to `capacity`, if all layers of the model keep all tokens.
    """
    batch = _Batch(model, pad_id, prefixes, version)
    batch.add(rows)
    joins = source is not None and _keeps_all_tokens(model)
    wasted = 0  # tokens of rows that were over, or waited for a place
    while batch.rows:
        batch.draw(end_ids)
        active = batch.active
        if not active:
            return
        places = max(0, min(len(source), capacity - active)) if joins and source is not None else 0
        wasted += len(batch.rows) - active + places
        is_due = wasted >= active  # other rows cost a copy of all keys and values: about a token of each row
        if is_due:
            wasted = 0
            batch.drop_ended()
        batch.step()
        if is_due and places and source is not None and (more := source.take(places)):
            batch.add(more)
