"""The schema of the policy (a base model with an adapter) and of conf/trainer/*.yaml."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, Tag, model_validator

from sia_runner.config.base import NAME_OR_CLASS, ClassPath, ConfigSection, NamedConfig, PositiveInt, schema_by_class
from sia_runner.records import as_object

Fraction = Annotated[float, Field(ge=0, le=1)]


class TinyModelConfig(ConfigSection):
    """The model that base=tiny builds and trains on the task's training text (the warm-up)."""

    layers: PositiveInt = 2  # transformer layers
    hidden: PositiveInt = 128  # width of the residual stream
    heads: PositiveInt = 4  # attention heads
    expansion: PositiveInt = 4  # width of the feed-forward layers in multiples of `hidden`
    context: PositiveInt = 256  # tokens
    vocabulary: PositiveInt = 2000  # size of a BPE trained on the text; fewer if the text has fewer characters
    epochs: NonNegativeInt = 20  # at most; the warm-up ends when held-out loss stops improving
    learning_rate: PositiveFloat = 3e-3  # of the warm-up
    weight_decay: NonNegativeFloat = 0.01  # of the warm-up


TINKER_ALPHA = 32  # of every service that speaks the Tinker protocol


class TrainingPrices(ConfigSection):
    """A service's prices in US dollars per million tokens."""

    prefill: NonNegativeFloat  # read: prompts, and forward passes without a gradient
    sample: NonNegativeFloat  # generated
    train: NonNegativeFloat  # of forward and backward passes


class TinkerSettings(ConfigSection):
    """The settings of backend=tinker: a service that trains and samples over the Tinker protocol."""

    # environment variable; a server on this machine or network asks for none
    key: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = "TINKER_API_KEY"
    key_file: str | None = None  # read where the variable is not set; its first line is the key
    timeout: PositiveFloat = 600.0  # seconds of one call: then the service is reported as hanging
    concurrency: PositiveInt = 32  # samples asked for at the same time
    # null: the dated table conf/prices/tinker.yaml for the hosted service, 0 for a server on this machine or network
    prices: TrainingPrices | None = None
    row_multiple: PositiveInt = 1  # rows of a training call; a server that deals them to N GPUs may want N
    # how the service reduces a loss over tokens; measure: by a model of rank 1, before each training
    reduction: Literal["measure", "sum", "mean"] = "measure"


class VllmSettings(ConfigSection):
    """The settings of the vLLM servers that a run starts itself: backend=vllm without a base_url."""

    # run: all stages share them, with compute=slurm in a job of their own; stage: the process of each stage starts its
    # own; null: run, and stage with a compute class of your own
    owner: Literal["run", "stage"] | None = None
    servers: PositiveInt = 1  # servers, between which requests are spread
    tensor_parallel: PositiveInt = 1  # GPUs of each; the servers take the last ones of those that are visible
    # what starts one; base and options follow, as in PYTHON -m vllm.entrypoints.openai.api_server --model
    command: Annotated[list[str], Field(min_length=1)] = Field(default_factory=lambda: ["vllm", "serve"])
    args: list[str] = Field(default_factory=list)  # further options of each, such as --max-model-len
    startup: PositiveFloat = 1800.0  # seconds within which a server has to answer, and for which a stage waits for it
    restarts: NonNegativeInt = 3  # how often each, or the job of all, is started again when it ends


class PolicyConfig(ConfigSection):
    """The model that harnesses call and that can be trained."""

    base: Annotated[str, Field(min_length=1)] = "tiny"  # `tiny`, `smollm2`, a folder, or a hub id
    backend: Annotated[  # peft: in this process; vllm: servers of vLLM; tinker: a service that also trains
        Annotated[Literal["peft", "vllm", "tinker"], Tag("Name")] | Annotated[ClassPath, Tag("Class")], NAME_OR_CLASS
    ] = "peft"
    # vllm: address of a running server, up to and including /v1; null: the run starts its own (`vllm`)
    # tinker: the service's; null: the hosted one
    base_url: str | None = None
    vllm: VllmSettings = Field(default_factory=VllmSettings)  # vllm without base_url only
    tinker: TinkerSettings = Field(default_factory=TinkerSettings)  # tinker only
    # peft, vllm: you vouch that `base` is what a service trained an adapter on, which tells no hash of its weights
    trust_base: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"  # peft only
    # of the base's weights; auto: bfloat16 where the processor or GPU computes in it
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    max_tokens: PositiveInt = 256  # completion bound of a request that names none
    temperature: NonNegativeFloat = 0.0  # of a request that names none
    max_batch_size: PositiveInt = 64  # requests answered together
    batch_wait_ms: NonNegativeFloat = 4.0  # how long the first request of a batch waits for others
    tiny: TinyModelConfig = Field(default_factory=TinyModelConfig)  # the shape of base=tiny; conf/ takes the task's


class CustomPolicyConfig(PolicyConfig):
    """Settings of a policy of the user's own: each further key is an argument of its constructor."""

    model_config = ConfigDict(extra="allow")


AnyPolicyConfig = Annotated[
    Annotated[PolicyConfig, Tag("Shipped")] | Annotated[CustomPolicyConfig, Tag("Custom")], schema_by_class("backend")
]


class LoraSettings(ConfigSection):
    """The fields of peft.LoraConfig that say what an adapter changes."""

    rank: PositiveInt = 32  # rank of the update
    alpha: PositiveInt = 64  # the update is scaled by alpha / rank
    dropout: Fraction = 0.0  # of the adapter's input
    targets: list[str] | Literal["all-linear"] = "all-linear"  # target_modules: the layers with an adapter
    # target_parameters: experts that are not linear layers, which all-linear misses; auto: if the model has any
    parameters: list[str] | Literal["auto"] = "auto"
    save: list[str] = Field(default_factory=list)  # modules_to_save: trained in full (embeddings, head)


class EarlyStopping(ConfigSection):
    """Limits that stop a training early, keeping the last good checkpoint; null: no limit."""

    max_kl: PositiveFloat | None = 10.0  # nats per completion to the base
    min_entropy: PositiveFloat | None = 0.01  # nats per token
    max_uniform_groups: Fraction | None = 1.0  # share of groups without any difference in reward, over a whole window
    max_length_ratio: PositiveFloat | None = 4.0  # of the mean completion to the first step's, in either direction
    max_drift: PositiveFloat | None = 1.0  # nats per token, KL of what sampled the rollouts to the learner
    window: PositiveInt = 5  # consecutive batches of rollouts beyond a limit
    min_gain: NonNegativeFloat | None = None  # of the mean reward, from `gain_window` steps to the next; less is flat
    gain_window: PositiveInt = 20  # batches of rollouts of which the mean rewards are compared


class LeverRule(ConfigSection):
    """The rule for training the weights if the proposer does not choose a lever."""

    plateau: PositiveInt = 1  # after so many generations without an accepted one
    latest_fraction: Fraction = 0.5  # at the latest after this share of the generations
    probe_questions: PositiveInt = 16  # rollout questions tried before an algorithm is chosen


_KIND_OF_KEY = {
    "clip": "online",
    "correction": "online",
    "early_stopping": "online",
    "prompts_per_step": "online",
    "prompts": "offline",
}


class AlgorithmConfig(NamedConfig):
    """Settings of one algorithm: one of `sia_runner/training/algorithms` by name, or a class of the user's own."""

    kind: Literal["online", "offline"]  # online: rollouts in each step; offline: rollouts first, then steps
    mode: Literal["SIA-W+H"]  # the name in reports
    algorithm: Annotated[  # docs/training.md describes each
        Annotated[Literal["ppo", "grpo", "entropic", "reinforce", "best_of_n", "dpo"], Tag("Name")]
        | Annotated[ClassPath, Tag("Class")],
        NAME_OR_CLASS,
    ]
    lora: LoraSettings = Field(default_factory=LoraSettings)
    learning_rate: PositiveFloat = 4e-5  # of the optimizer
    steps: PositiveInt = 40  # optimizer steps
    prompts_per_step: PositiveInt | None = None  # online only: questions rolled out at each step
    prompts: PositiveInt | None = None  # offline only: questions rolled out in the whole training
    group_size: PositiveInt = 8  # rollouts of each question
    temperature: PositiveFloat = 1.0  # of rollouts
    kl_coefficient: NonNegativeFloat = 0.0  # weight of the KL to the base
    clip: PositiveFloat | None = None  # online only: of the importance ratio, to [1 - clip, 1 + clip]
    # online only: what is done about rollouts of a server whose logprobs differ from the learner's; truncate: tokens
    # are weighted by the learner's probability / the server's, at most 2; mask: likewise, and 0 above 2
    correction: Literal["none", "truncate", "mask"] | None = None
    # online only: batches that are rolled out ahead, while the one before is trained on; needs a server that answers
    overlap: Literal[0, 1] = 0
    max_length: PositiveInt = 4096  # tokens of prompt and completion together
    checkpoint_every: PositiveInt = 10  # steps
    processes: PositiveInt = 1  # that share an update, each with a copy of the base and, if there are any, its own GPU
    shards: PositiveInt = 1  # into which the base is divided, each in a process with its own GPU; needs backend=vllm
    early_stopping: EarlyStopping | None = None  # online only
    options: dict[str, float | int | str | bool] = Field(default_factory=dict)  # of this algorithm, which checks them

    @model_validator(mode="before")
    @classmethod
    def _defaults_by_kind(cls, data: Any) -> Any:
        given, limits = as_object(data), EarlyStopping()
        online = {"clip": 0.2, "correction": "none", "early_stopping": limits, "prompts_per_step": 16}
        defaults = online if given.get("kind") == "online" else {"prompts": 16}
        return {**defaults, **given} if given else data

    @model_validator(mode="after")
    def _fits_algorithm(self) -> "AlgorithmConfig":
        for name, kind in _KIND_OF_KEY.items():
            if (getattr(self, name) is None) == (self.kind == kind):
                allowed = "a value" if self.kind == kind else "null"
                raise ValueError(f"algorithm={self.algorithm} trains {self.kind}: {name} has to be {allowed}")
        if self.overlap and self.kind == "offline":
            raise ValueError(f"algorithm={self.algorithm} trains offline: overlap has to be 0")
        minimum = {"entropic": 4, "grpo": 2, "reinforce": 2, "best_of_n": 2, "dpo": 2}.get(self.algorithm, 1)
        if (size := self.group_size) < minimum:
            raise ValueError(f"algorithm={self.algorithm} needs group_size of at least {minimum}; given: {size}")
        return self

    @property
    def stopping_limits(self) -> EarlyStopping:
        """The limits of an online training."""
        assert self.early_stopping is not None  # noqa: S101 - checked above: online
        return self.early_stopping

    @property
    def ranks(self) -> int:
        """The processes of an update, with a copy or a shard of the base each."""
        return max(self.processes, self.shards)

    @property
    def prompt_count(self) -> int:
        """The questions rolled out at each step (online) or in the whole training (offline)."""
        return self.prompts_per_step or self.prompts or 0


class NoTrainer(NamedConfig):
    """The choice of no weights lever."""

    kind: Literal["none"]  # no training
    mode: Literal["SIA-H", "control-votes", "control-random"]  # the name in reports


class AutoTrainer(NamedConfig):
    """Settings of every algorithm; the reward's shape (docs/training.md) or the proposer chooses one."""

    kind: Literal["auto"]  # the algorithm is chosen in the run
    mode: Literal["SIA-W+H"]  # the name in reports
    algorithms: dict[str, AlgorithmConfig]  # what may be chosen, with its settings


TrainerConfig = Annotated[NoTrainer | AutoTrainer | AlgorithmConfig, Field(discriminator="kind")]


def allowed_algorithms(trainer: TrainerConfig) -> dict[str, AlgorithmConfig]:
    """Return the algorithms that may be used, by name: all of trainer=auto, or the fixed one."""
    if isinstance(trainer, NoTrainer):
        return {}
    return {trainer.algorithm: trainer} if isinstance(trainer, AlgorithmConfig) else trainer.algorithms
