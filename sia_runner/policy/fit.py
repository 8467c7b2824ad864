"""The arithmetic of memory: what one GPU holds that trains a base or serves it, computed before anything is loaded.

No torch. Every figure can be checked by hand; docs/large_models.md has a worked one. A GPU "of 80 GB" is counted as
80e9 bytes: cards have some 6% more, which is left to the fragmentation of torch's allocator.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from sia_runner.config.training import LoraSettings
from sia_runner.records import Json
from sia_runner.wire.policy import PolicyError

GB = 10**9
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "auto": 2}  # auto: GPUs compute in bfloat16
_TRAINED = 4  # bytes of a trained number, of its gradient, and of each of Adam's two moments: all are float32
_CONTEXT, _COMMUNICATION = 1.0 * GB, 1.0 * GB  # a process on a GPU: CUDA's context and libraries; NCCL's buffers
_GATHERED_LAYERS = 2  # of a sharded base: the layer at work and the one that is fetched meanwhile
_ROWS_OF_A_PASS, _MIN_PASS_TOKENS = 4, 8192
HEAD_TOKENS, HEAD_WIDTH = 4096, 32768  # the logits that TRL's head holds at once: tokens by entries of the vocabulary
# Numbers that a layer holds for each token at its peak, forward and backward, in multiples of: the hidden size,
# queries, keys, and the feed-forward width. Measured (tests/policy/test_fit.py). In bfloat16 an adapter's input is
# copied, and norms are computed in float32.
_LAYER_NUMBERS = {4: (5.0, 3.0, 3.0, 6.0), 2: (14.0, 5.0, 4.0, 7.0)}
_EXPERT_NUMBERS, _CLAMPED_EXPERT_NUMBERS = (7.0, 2.2), (10.0, 2.2)  # of each expert: its width, and the hidden size
_SCORES, _KEPT_SCORES = 3.0, 1.0  # copies of attention scores where attention is not fused: at work, and kept later on
_MASKS = 2.0  # such attention has one for layers with a window and one for those without
# vLLM: the share of a GPU that it takes, its context, CUDA graphs and activations, slots for adapters, and the
# sequences of full length that a server is to hold at once: with fewer, rollouts wait for one another
_SERVER_SHARE, _SERVER_WORK, _ADAPTER_SLOTS, SEQUENCES = 0.9, 3.0 * GB, 2, 32
_TENSOR_PARALLEL = (1, 2, 4, 8)
ANSWERS = 64 * 1280  # tokens that one process answers at once: its largest batch, prompts of 1,024 and answers of 256


def pass_tokens(max_length: int, *, fused_attention: bool = True) -> int:
    """Return the padded tokens that a learner takes in one forward and backward pass; a longer row goes alone.

    Attention that is not fused holds a score for each pair of tokens of a row, so it takes one long row at a time.
    """
    return max(_ROWS_OF_A_PASS * max_length, _MIN_PASS_TOKENS) if fused_attention else max(max_length, 2048)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a base that its memory follows from."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int  # of the feed-forward layer, or of one expert
    vocabulary: int
    context: int  # tokens
    experts: int = 0  # of each layer; 0: one feed-forward layer
    experts_used: int = 0  # by a token
    tied: bool = False  # embeddings and head are one matrix
    biases: frozenset[str] = frozenset()  # layers with a bias, by the last part of their names
    query_norms: bool = False  # a norm of queries and one of keys
    sinks: bool = False  # a learned score of each head for no token: no fused attention has its gradient
    file_bytes: int | None = None  # bytes of its files: those of a server, which keeps 4-bit weights

    @property
    def linear_layers(self) -> Mapping[str, tuple[int, int]]:
        """The linear layers of one decoder layer: inputs and outputs, by the last part of their names."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
        }
        inner = self.intermediate
        gated = {"gate_proj": (self.hidden, inner), "up_proj": (self.hidden, inner), "down_proj": (inner, self.hidden)}
        return attention if self.experts else attention | gated

    @property
    def expert_weights(self) -> Mapping[str, tuple[int, int]]:
        """The matrices of one expert: inputs and outputs, by the last part of their names."""
        inner = self.intermediate
        return {"gate_up_proj": (self.hidden, 2 * inner), "down_proj": (inner, self.hidden)} if self.experts else {}

    @property
    def expert_parameters(self) -> int:
        """The matrices of all experts of one layer."""
        return self.experts * sum(inputs * outputs for inputs, outputs in self.expert_weights.values())

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        linear, expert = self.linear_layers, self.expert_weights
        count = sum(inputs * outputs for inputs, outputs in linear.values()) + self.expert_parameters
        count += sum(linear[name][1] for name in self.biases if name in linear)
        count += self.experts * sum(expert[name][1] for name in self.biases if name in expert)
        count += self.experts * (self.hidden + ("router" in self.biases))
        count += 2 * self.hidden + 2 * self.head_dim * self.query_norms + self.heads * self.sinks
        return count

    @property
    def outer_parameters(self) -> int:
        """Parameters of embeddings, head and last norm."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """The number of all parameters."""
        return self.layers * self.layer_parameters + self.outer_parameters

    @property
    def cache_bytes(self) -> int:
        """Bytes of the keys and values of one token in bfloat16, with all layers at full attention."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2

    def adapter_parameters(self, lora: LoraSettings) -> int:
        """Return what an adapter of these settings trains: two factors for each layer, and modules trained in full."""
        linear, expert = self.linear_layers, self.expert_weights
        targets = linear if lora.targets == "all-linear" else {target.rpartition(".")[2] for target in lora.targets}
        adapted = expert
        if lora.parameters != "auto":
            adapted = {parameter.rpartition(".")[2] for parameter in lora.parameters}
        factors = sum(sum(sizes) for name, sizes in linear.items() if name in targets)
        factors += self.experts * sum(sum(sizes) for name, sizes in expert.items() if name in adapted)
        modules = len(lora.save) - (self.tied and len(lora.save) > 1)
        return self.layers * lora.rank * factors + modules * self.vocabulary * self.hidden

    def adapts_experts(self, lora: LoraSettings) -> bool:
        """Return True if such an adapter changes experts."""
        return bool(self.experts) and bool(lora.parameters)


_OSS_20B = ModelShape(
    "gpt-oss-20b",
    layers=24,
    hidden=2880,
    heads=64,
    kv_heads=8,
    head_dim=64,
    intermediate=2880,
    vocabulary=201_088,
    context=131_072,
    experts=32,
    experts_used=4,
    biases=frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "router", "gate_up_proj", "down_proj"}),
    sinks=True,
)


def _in_four_bits(shape: ModelShape) -> ModelShape:
    """Return a shape whose files hold experts in MXFP4 (17 bytes for 32 weights), and the rest in bfloat16."""
    experts = shape.layers * shape.expert_parameters
    return replace(shape, file_bytes=2 * (shape.parameters - experts) + experts * 17 // 32)


BUILT_IN: Mapping[str, ModelShape] = {
    "gpt-oss-20b": _in_four_bits(_OSS_20B),
    "gpt-oss-120b": _in_four_bits(replace(_OSS_20B, name="gpt-oss-120b", layers=36, experts=128)),
}


def model_shape(base: str, *, fetch: bool = True) -> ModelShape:
    """Return the shape of a base: a folder, a built-in name, or a hub id, of which no weights are fetched.

    `fetch`: also a hub id that is not in the cache. Raises PolicyError, also for an unknown architecture.
    """
    from sia_runner.policy.base_model import base_folder

    if not Path(base).expanduser().is_dir() and (built_in := BUILT_IN.get(base.rpartition("/")[2].lower())):
        return built_in
    folder = base_folder(base, weights=False, fetch=fetch)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return replace(shape_of_config(base, config), file_bytes=_weight_file_bytes(folder))
    except (OSError, ValueError) as error:
        raise PolicyError(f"base={base}: its config.json cannot be read: {error}") from None


_QKV = ("q_proj", "k_proj", "v_proj")
_ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral", "gpt_oss")


def shape_of_config(name: str, config: Json) -> ModelShape:
    """Return the shape that a config.json of transformers describes. Raises PolicyError."""
    kind = str(config.get("model_type"))
    if kind not in _ARCHITECTURES:
        understood = ", ".join(_ARCHITECTURES)
        raise PolicyError(f"base={name}: the memory of model_type={kind} is not computed here, only of {understood}")
    try:
        heads, experts = int(config["num_attention_heads"]), 0
        if kind in ("mixtral", "gpt_oss", "qwen3_moe"):
            experts = int(config.get("num_local_experts") or config["num_experts"])
        biases = {*_QKV, "o_proj"} if config.get("attention_bias", kind == "gpt_oss") else set[str]()
        biases |= {*_QKV} if kind == "qwen2" else set()
        biases |= {"gate_proj", "up_proj", "down_proj"} if config.get("mlp_bias") else set()
        biases |= {"router", "gate_up_proj", "down_proj"} if kind == "gpt_oss" else set()
        return ModelShape(
            name,
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            intermediate=int(config["moe_intermediate_size" if kind == "qwen3_moe" else "intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            context=int(config["max_position_embeddings"]),
            experts=experts,
            experts_used=int(config["num_experts_per_tok"]) if experts else 0,
            tied=bool(config.get("tie_word_embeddings", False)),
            biases=frozenset(biases),
            query_norms=kind in ("qwen3", "qwen3_moe"),
            sinks=kind == "gpt_oss",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyError(f"base={name}: its config.json lacks what its memory follows from: {error}") from None


def _weight_file_bytes(folder: Path) -> int | None:
    """Return the bytes of the weight files, by their index where only that is there."""
    if sizes := [file.stat().st_size for file in folder.glob("*.safetensors")]:
        return sum(sizes)
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return int(index["metadata"]["total_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class Training:
    """The settings of an update that determine its memory."""

    lora: LoraSettings
    max_length: int = 4096  # tokens of prompt and completion together
    dtype: str = "bfloat16"  # of the base
    shards: int = 1  # GPUs that one copy of the base is split over
    processes: int = 1  # that exchange gradients, those of the shards included
    checkpointing: bool = True  # each layer's activations are computed a second time: on GPUs
    critic: bool = False
    answers: int = 0  # tokens of all sequences that the same copy answers at once, between steps; 0: a server answers


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that one process holds, by part; answering and the passes of a step take turns."""

    base: float  # its share of the base
    gathered: float  # of a sharded base: the layers at work, and embeddings and head
    adapter: float  # trained numbers, their gradients, Adam's moments, and the exchange between processes
    activations: float  # the inputs of all layers; without checkpointing all that they hold for the backward pass
    layer: float  # what one layer holds while it is at work, forward and backward
    logits: float  # what the head holds while tokens are scored, before any layer goes backward
    answering: float  # keys and values of the sequences that are answered between steps
    overhead: float  # CUDA and NCCL

    @property
    def total(self) -> float:
        """The peak."""
        lasting = self.base + self.adapter + self.overhead
        return lasting + max(self.gathered + self.activations + max(self.layer, self.logits), self.answering)

    def parts(self) -> Iterator[tuple[str, float]]:
        """Yield names and bytes of the parts that are there."""
        for field in fields(self):
            if value := getattr(self, field.name):
                yield field.name, value


def training_memory(shape: ModelShape, training: Training) -> Memory:
    """Return what each process of an update holds."""
    width, lora = DTYPE_BYTES[training.dtype], training.lora
    count = shape.adapter_parameters(lora) + (shape.hidden + 1) * training.critic
    copies = 4 + (training.processes > 1)  # numbers, gradient, two moments; the exchange is one flat copy
    gathered = 0.0
    if training.shards > 1:
        layers = min(_GATHERED_LAYERS, shape.layers) * shape.layer_parameters
        gathered = width * (layers + shape.outer_parameters)
    tokens = pass_tokens(training.max_length, fused_attention=not shape.sinks)
    layer, masks = _layer_bytes(shape, training, tokens)
    inputs = tokens * shape.hidden * width
    # one tile; the last states, and their gradient in float32
    logits = min(tokens, HEAD_TOKENS) * HEAD_WIDTH * width + tokens * shape.hidden * (4 + width)
    return Memory(
        base=shape.parameters * width / training.shards,
        gathered=gathered,
        adapter=count * _TRAINED * copies,
        activations=masks + shape.layers * (inputs if training.checkpointing else layer),
        layer=layer,
        logits=float(logits),
        answering=training.answers * shape.cache_bytes * width / 2,
        overhead=_CONTEXT + _COMMUNICATION * (training.processes > 1),
    )


def _layer_bytes(shape: ModelShape, training: Training, tokens: int) -> tuple[float, float]:
    """Return the bytes of one layer at its peak, and those of attention masks."""
    width, length = DTYPE_BYTES[training.dtype], min(training.max_length, tokens)
    per_hidden, per_query, per_key, per_inner = _LAYER_NUMBERS[width]
    attention = per_hidden * shape.hidden + (per_query * shape.heads + per_key * shape.kv_heads) * shape.head_dim
    feed_forward = per_inner * shape.intermediate
    if shape.experts:
        per_inner, per_hidden = _CLAMPED_EXPERT_NUMBERS if shape.sinks else _EXPERT_NUMBERS
        feed_forward = shape.experts_used * (per_inner * shape.intermediate + per_hidden * shape.hidden)
    scores = shape.heads * length if shape.sinks else 0
    numbers = attention + max(feed_forward + _KEPT_SCORES * scores, _SCORES * scores)
    update = 0
    if training.shards == 1 and shape.adapts_experts(training.lora):  # PEFT's update of the larger matrix, and the sum
        update = 2 * shape.experts * max(inputs * outputs for inputs, outputs in shape.expert_weights.values())
    return width * (tokens * numbers + update), width * tokens * _MASKS * length * shape.sinks


def longest_rows(shape: ModelShape, training: Training, gpu_bytes: float) -> int:
    """Return the largest `max_length`, in steps of 128 tokens, that fits; 0 where none does."""
    low, high = 0, shape.context // 128
    while low < high:
        middle = (low + high + 1) // 2
        fits = training_memory(shape, replace(training, max_length=128 * middle)).total <= gpu_bytes
        low, high = (middle, high) if fits else (low, middle - 1)
    return 128 * low


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """Bytes that each GPU of a vLLM server holds, and the sequences of full length that it can hold at once."""

    weights: float
    adapters: float
    work: float
    sequences: int


def server_memory(
    shape: ModelShape, lora: LoraSettings, max_length: int, gpu_bytes: float, tensor_parallel: int
) -> ServerMemory:
    """Return the memory of a server; weights are those of the files, so that 4-bit experts stay as they are."""
    weights = (shape.file_bytes or 2 * shape.parameters) / tensor_parallel
    adapters = float(_ADAPTER_SLOTS * 2 * shape.adapter_parameters(lora))  # factors are not split
    room = _SERVER_SHARE * gpu_bytes - weights - adapters - _SERVER_WORK
    sequence = max_length * shape.cache_bytes / min(tensor_parallel, shape.kv_heads)
    return ServerMemory(weights, adapters, _SERVER_WORK, max(0, int(room // sequence)))


def server_gpus(
    shape: ModelShape, lora: LoraSettings, max_length: int, gpu_bytes: float, at_most: int = 8
) -> int | None:
    """Return the fewest GPUs that serve a base with `SEQUENCES` rows at once; None if no server of one node does."""
    for count in _TENSOR_PARALLEL:
        divides = shape.heads % count == 0 and (shape.kv_heads % count == 0 or count % shape.kv_heads == 0)
        memory = server_memory(shape, lora, max_length, gpu_bytes, count)
        if count <= at_most and divides and memory.sequences >= SEQUENCES:
            return count
    return None


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """A division of GPUs: `train` of them hold the base's shards, the others are servers of `each`."""

    train: int
    servers: int  # 0: the process that trains answers too
    each: int
    memory: Memory  # of each training process
    longest: int  # tokens of the longest row that fits

    @property
    def serve(self) -> int:
        """The number of GPUs that only serve."""
        return self.servers * self.each


def plan_gpus(
    shape: ModelShape, training: Training, gpus: int, gpu_bytes: float, answers: int = ANSWERS
) -> GpuPlan | None:
    """Return how to use `gpus` GPUs; None if the base cannot be trained on them.

    One GPU trains and answers by turns. Of several, the fewest that hold the training train, since rollouts take most
    of the time; the others serve, and what is no whole server trains.
    """
    if gpus == 1:
        alone = replace(training, shards=1, processes=1, answers=answers)
        memory = training_memory(shape, alone)
        return GpuPlan(1, 0, 0, memory, longest_rows(shape, alone, gpu_bytes)) if memory.total <= gpu_bytes else None
    each = server_gpus(shape, training.lora, training.max_length, gpu_bytes)
    if each is None:
        return None
    for train in range(1, gpus - each + 1):
        if training_memory(shape, _split(training, train)).total <= gpu_bytes:
            servers = (gpus - train) // each
            split = _split(training, gpus - servers * each)
            return GpuPlan(
                split.shards, servers, each, training_memory(shape, split), longest_rows(shape, split, gpu_bytes)
            )
    return None


def _split(training: Training, gpus: int) -> Training:
    return replace(training, shards=gpus, processes=gpus, answers=0)


def gigabytes(count: float) -> str:
    """Return bytes as GB of 1e9, with three figures."""
    value = count / GB
    return f"{value:.0f} GB" if value >= 100 else f"{value:.1f} GB" if value >= 1 else f"{value:.2g} GB"


def parts_text(memory: Memory) -> str:
    """Return the parts of a memory in one line."""
    return " + ".join(f"{name} {gigabytes(value)}" for name, value in memory.parts())
