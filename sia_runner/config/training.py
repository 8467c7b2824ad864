"""The schema of the policy (a base model with an adapter) and of conf/trainer/*.yaml."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sia_runner.config.base import ConfigSection, NamedConfig, PositiveFloat, PositiveInt

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegativeFloat = Annotated[float, Field(ge=0)]


class TinyModelConfig(ConfigSection):
    """The model that base=tiny builds and trains on the task's training text (the warm-up)."""

    layers: PositiveInt = 2
    hidden: PositiveInt = 128
    heads: PositiveInt = 4
    expansion: PositiveInt = 4  # width of the feed-forward layers in multiples of `hidden`
    context: PositiveInt = 256  # tokens
    vocabulary: PositiveInt = 2000  # size of a BPE trained on the text; fewer if the text has fewer characters
    epochs: Annotated[int, Field(ge=0)] = 20  # at most; the warm-up ends when held-out loss stops improving
    learning_rate: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 0.01


class PolicyConfig(ConfigSection):
    """The model that harnesses call and that can be trained."""

    base: Annotated[str, Field(min_length=1)] = "tiny"  # `tiny`, a folder, or a hub id
    backend: Literal["peft", "vllm"] = "peft"
    base_url: str | None = None  # vllm: the server's address, up to and including /v1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_tokens: PositiveInt = 256  # completion bound of a request that names none
    temperature: NonNegativeFloat = 0.0  # of a request that names none
    batch: PositiveInt = 64  # requests answered together
    wait_ms: NonNegativeFloat = 4.0  # how long a request waits for others to join its batch
    tiny: TinyModelConfig = Field(default_factory=TinyModelConfig)  # the shape of base=tiny; conf/ takes the task's


class LoraSettings(ConfigSection):
    """The fields of peft.LoraConfig that say what an adapter changes."""

    rank: PositiveInt = 32
    alpha: PositiveInt = 64
    dropout: Fraction = 0.0
    targets: list[str] | Literal["all-linear"] = "all-linear"
    # target_parameters: experts that are not linear layers, which all-linear misses; auto: if the model has any
    parameters: list[str] | Literal["auto"] = "auto"
    save: list[str] = Field(default_factory=list)  # modules_to_save: trained in full (embeddings, head)


class CollapseLimits(ConfigSection):
    """Limits that stop a training early, keeping the last good checkpoint; null: no limit."""

    kl: PositiveFloat | None = 10.0  # nats per completion to the base
    entropy: PositiveFloat | None = 0.01  # nats per token, from below
    zero_groups: Fraction | None = 1.0  # share of groups without any difference in reward, over a whole window
    length: PositiveFloat | None = 4.0  # mean completion length relative to that of the first step
    window: PositiveInt = 5  # consecutive steps beyond a limit


class LeverRule(ConfigSection):
    """The rule for training the weights if the proposer does not choose a lever."""

    plateau: PositiveInt = 1  # after so many generations without an accepted one
    latest: Fraction = 0.5  # at the latest after this share of the generations
    probe: PositiveInt = 16  # rollout questions tried before an algorithm is chosen


class AlgorithmConfig(NamedConfig):
    """Settings of one algorithm of `sia_runner/training/algorithms`."""

    kind: Literal["online", "offline"]
    mode: Literal["SIA-W+H"]
    algorithm: Literal["ppo", "grpo", "entropic", "reinforce", "best_of_n", "dpo"]
    lora: LoraSettings = Field(default_factory=LoraSettings)
    learning_rate: PositiveFloat = 4e-5
    steps: PositiveInt = 40  # optimizer steps
    questions: PositiveInt = 16  # per step (online); in all (offline)
    samples: Annotated[int, Field(ge=1)] = 8  # rollouts of each question: the group size
    temperature: PositiveFloat = 1.0  # of rollouts
    kl: NonNegativeFloat = 0.0  # weight of the KL to the base
    clip: PositiveFloat | None = None  # online only: of the importance ratio, to [1 - clip, 1 + clip]
    max_length: PositiveInt = 4096  # tokens of prompt and completion together
    checkpoint_every: PositiveInt = 10  # steps
    processes: PositiveInt = 1  # that share an update, each with a copy of the base and, if there are any, its own GPU
    collapse: CollapseLimits | None = None  # online only
    options: dict[str, float | int | str | bool] = Field(default_factory=dict)  # of this algorithm, which checks them

    @model_validator(mode="before")
    @classmethod
    def _of_online(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("kind") == "online":
            return {"clip": 0.2, "collapse": CollapseLimits(), **data}
        return data

    @model_validator(mode="after")
    def _online_only(self) -> "AlgorithmConfig":
        for name, value in (("clip", self.clip), ("collapse", self.collapse)):
            if (value is None) == (self.kind == "online"):
                allowed = "null" if self.kind == "offline" else "a value"
                raise ValueError(f"algorithm={self.algorithm} trains {self.kind}: {name} has to be {allowed}")
        return self

    @property
    def watched(self) -> CollapseLimits:
        """The collapse limits of an online training."""
        assert self.collapse is not None  # noqa: S101 - checked above: online
        return self.collapse

    @model_validator(mode="after")
    def _groups(self) -> "AlgorithmConfig":
        minimum = {"entropic": 4, "grpo": 2, "reinforce": 2, "best_of_n": 2, "dpo": 2, "ppo": 1}[self.algorithm]
        if self.samples < minimum:
            raise ValueError(f"algorithm={self.algorithm} needs samples of at least {minimum}; given: {self.samples}")
        return self


class NoTrainer(NamedConfig):
    """The choice of no weights lever."""

    kind: Literal["none"]
    mode: Literal["SIA-H"]


class AutoTrainer(NamedConfig):
    """Settings of every algorithm; the reward's shape (training/rules.py) or the proposer chooses one."""

    kind: Literal["auto"]
    mode: Literal["SIA-W+H"]
    algorithms: dict[str, AlgorithmConfig]  # what may be chosen, with its settings


TrainerConfig = Annotated[NoTrainer | AutoTrainer | AlgorithmConfig, Field(discriminator="kind")]


def allowed_algorithms(trainer: TrainerConfig) -> dict[str, AlgorithmConfig]:
    """Return the algorithms that may be used, by name: all of trainer=auto, or the fixed one."""
    if isinstance(trainer, NoTrainer):
        return {}
    return {trainer.algorithm: trainer} if isinstance(trainer, AlgorithmConfig) else trainer.algorithms
