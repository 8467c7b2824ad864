"""The schema of the policy (a base model with an adapter) and of conf/trainer/*.yaml."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sia_runner.schema.parts import Count, Named, Part, Positive

Share1 = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


class Tiny(Part):
    """The model that base=tiny builds and trains on the task's training text (the warm-up)."""

    layers: Count = 2
    hidden: Count = 128
    heads: Count = 4
    expansion: Count = 4  # width of the feed-forward layers in multiples of `hidden`
    context: Count = 256  # tokens
    vocabulary: Count = 2000  # size of a BPE trained on the text; fewer if the text has fewer characters
    epochs: Annotated[int, Field(ge=0)] = 20  # at most; the warm-up ends when held-out loss stops improving
    learning_rate: Positive = 3e-3
    weight_decay: NotNegative = 0.01


class PolicySpec(Part):
    """The model that harnesses call and that can be trained."""

    base: Annotated[str, Field(min_length=1)] = "tiny"  # `tiny`, a folder, or a hub id
    backend: Literal["peft", "vllm"] = "peft"
    base_url: str | None = None  # vllm: the server's address, up to and including /v1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_tokens: Count = 256  # completion bound of a request that names none
    temperature: NotNegative = 0.0  # of a request that names none
    batch: Count = 64  # requests answered together
    wait_ms: NotNegative = 4.0  # how long a request waits for others to join its batch
    tiny: Tiny = Field(default_factory=Tiny)  # the shape of base=tiny; conf/ takes the task's


class Lora(Part):
    """The fields of peft.LoraConfig that say what an adapter changes."""

    rank: Count = 32
    alpha: Count = 64
    dropout: Share1 = 0.0
    targets: list[str] | Literal["all-linear"] = "all-linear"
    # target_parameters: experts that are not linear layers, which all-linear misses; auto: if the model has any
    parameters: list[str] | Literal["auto"] = "auto"
    save: list[str] = Field(default_factory=list)  # modules_to_save: trained in full (embeddings, head)


class Collapse(Part):
    """Limits that stop a training early, keeping the last good checkpoint; null: no limit."""

    kl: Positive | None = 10.0  # nats per completion to the base
    entropy: Positive | None = 0.01  # nats per token, from below
    zero_groups: Share1 | None = 1.0  # share of groups without any difference in reward, over a whole window
    length: Positive | None = 4.0  # mean completion length relative to that of the first step
    window: Count = 5  # consecutive steps beyond a limit


class LeverRule(Part):
    """The rule for training the weights if the proposer does not choose a lever."""

    plateau: Count = 1  # after so many generations without an accepted one
    latest: Share1 = 0.5  # at the latest after this share of the generations
    probe: Count = 16  # rollout questions tried before an algorithm is chosen


class Algorithm(Named):
    """Settings of one algorithm of `sia_runner/training/algorithms`."""

    kind: Literal["online", "offline"]
    mode: Literal["SIA-W+H"]
    algorithm: Literal["ppo", "grpo", "entropic", "reinforce", "best_of_n", "dpo"]
    lora: Lora = Field(default_factory=Lora)
    learning_rate: Positive = 4e-5
    steps: Count = 40  # optimizer steps
    questions: Count = 16  # per step (online); in all (offline)
    samples: Annotated[int, Field(ge=1)] = 8  # rollouts of each question: the group size
    temperature: Positive = 1.0  # of rollouts
    kl: NotNegative = 0.0  # weight of the KL to the base
    clip: Positive | None = None  # online only: of the importance ratio, to [1 - clip, 1 + clip]
    max_length: Count = 4096  # tokens of prompt and completion together
    checkpoint_every: Count = 10  # steps
    processes: Count = 1  # that share an update, each with a copy of the base and, if there are any, its own GPU
    collapse: Collapse | None = None  # online only
    options: dict[str, float | int | str | bool] = Field(default_factory=dict)  # of this algorithm, which checks them

    @model_validator(mode="before")
    @classmethod
    def _of_online(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("kind") == "online":
            return {"clip": 0.2, "collapse": Collapse(), **data}
        return data

    @model_validator(mode="after")
    def _online_only(self) -> "Algorithm":
        for name, value in (("clip", self.clip), ("collapse", self.collapse)):
            if (value is None) == (self.kind == "online"):
                allowed = "null" if self.kind == "offline" else "a value"
                raise ValueError(f"algorithm={self.algorithm} trains {self.kind}: {name} has to be {allowed}")
        return self

    @property
    def watched(self) -> Collapse:
        """The collapse limits of an online training."""
        assert self.collapse is not None  # noqa: S101 - checked above: online
        return self.collapse

    @model_validator(mode="after")
    def _groups(self) -> "Algorithm":
        minimum = {"entropic": 4, "grpo": 2, "reinforce": 2, "best_of_n": 2, "dpo": 2, "ppo": 1}[self.algorithm]
        if self.samples < minimum:
            raise ValueError(f"algorithm={self.algorithm} needs samples of at least {minimum}; given: {self.samples}")
        return self


class NoTrainer(Named):
    """The choice of no weights lever."""

    kind: Literal["none"]
    mode: Literal["SIA-H"]


class Auto(Named):
    """Settings of every algorithm; the reward's shape (training/rules.py) or the proposer chooses one."""

    kind: Literal["auto"]
    mode: Literal["SIA-W+H"]
    algorithms: dict[str, Algorithm]  # what may be chosen, with its settings


Trainer = Annotated[NoTrainer | Auto | Algorithm, Field(discriminator="kind")]


def allowed(trainer: Trainer) -> dict[str, Algorithm]:
    """Return the algorithms that may be used, by name: all of trainer=auto, or the fixed one."""
    if isinstance(trainer, NoTrainer):
        return {}
    return {trainer.algorithm: trainer} if isinstance(trainer, Algorithm) else trainer.algorithms
