"""The schema of the policy (a base model with an adapter) and of conf/trainer/*.yaml."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sia_runner.schema.parts import Count, Named, Part, Positive

Share1 = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


class Tiny(Part):
    """The model that base=tiny builds and warms on the task's training text."""

    layers: Count = 2
    hidden: Count = 128
    heads: Count = 4
    expansion: Count = 4  # width of the feed-forward layers against `hidden`
    context: Count = 256  # tokens
    vocabulary: Count = 2000  # of a BPE trained on the text; characters where the text has fewer
    epochs: Annotated[int, Field(ge=0)] = 20  # at most; warming ends when held-out loss stops improving
    learning_rate: Positive = 3e-3
    weight_decay: NotNegative = 0.01


class PolicySpec(Part):
    """A model that harnesses call and that can be trained."""

    base: Annotated[str, Field(min_length=1)] = "tiny"  # `tiny`, a folder, or a hub id
    backend: Literal["peft", "vllm"] = "peft"
    base_url: str | None = None  # vllm: address of its server, up to and including /v1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_tokens: Count = 256  # completion bound of a request that names none
    temperature: NotNegative = 0.0  # of a request that names none
    batch: Count = 64  # requests answered together
    wait_ms: NotNegative = 4.0  # how long a request waits for others to join its batch
    tiny: Tiny = Field(default_factory=Tiny)  # what base=tiny is; conf/ takes the task's own


class Lora(Part):
    """peft.LoraConfig: what an adapter changes."""

    rank: Count = 32
    alpha: Count = 64
    dropout: Share1 = 0.0
    targets: list[str] | Literal["all-linear"] = "all-linear"
    # target_parameters: experts that are no linear layers, which all-linear misses; auto: where the model has some
    parameters: list[str] | Literal["auto"] = "auto"
    save: list[str] = Field(default_factory=list)  # modules_to_save: trained whole (embeddings, head)


class Collapse(Part):
    """Training stops early, keeping the last good checkpoint, when one of these is passed; null: not watched."""

    kl: Positive | None = 10.0  # nats per completion to the base
    entropy: Positive | None = 0.01  # nats per token, from below
    zero_groups: Share1 | None = 1.0  # share of groups without any difference in reward, over a whole window
    length: Positive | None = 4.0  # mean completion length against that of the first step
    window: Count = 5  # steps that have to agree


class LeverRule(Part):
    """When the weights are trained, where the proposer does not say so itself."""

    plateau: Count = 1  # after so many generations without an accepted one
    latest: Share1 = 0.5  # and at the latest when this share of the generations is done
    probe: Count = 16  # rollout questions tried before an algorithm is chosen


class Algorithm(Named):
    """One algorithm of `sia_runner/training/algorithms`, with its vetted settings."""

    kind: Literal["online", "offline"]
    mode: Literal["SIA-W+H"]
    algorithm: Literal["ppo", "grpo", "entropic", "reinforce", "best_of_n", "dpo"]
    lora: Lora = Field(default_factory=Lora)
    learning_rate: Positive = 4e-5
    steps: Count = 40  # optimizer steps
    questions: Count = 16  # per step (online); in all (offline)
    samples: Annotated[int, Field(ge=1)] = 8  # runs of the harness over the same questions: the group
    temperature: Positive = 1.0  # of rollouts
    kl: NotNegative = 0.0  # weight of the KL to the base
    clip: Positive | None = None  # online only: of the importance ratio, to [1 - clip, 1 + clip]
    max_length: Count = 4096  # tokens of prompt and completion together
    checkpoint_every: Count = 10  # steps
    processes: Count = 1  # that share an update, each with a copy of the base and, where there are GPUs, one of its own
    collapse: Collapse | None = None  # online only
    options: dict[str, float | int | str | bool] = Field(default_factory=dict)  # the algorithm's own, checked by it

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
        """What stops an online training early."""
        assert self.collapse is not None  # noqa: S101 - checked above: online
        return self.collapse

    @model_validator(mode="after")
    def _groups(self) -> "Algorithm":
        least = {"entropic": 4, "grpo": 2, "reinforce": 2, "best_of_n": 2, "dpo": 2, "ppo": 1}[self.algorithm]
        if self.samples < least:
            raise ValueError(f"algorithm={self.algorithm} needs samples of at least {least}; given: {self.samples}")
        return self


class NoTrainer(Named):
    kind: Literal["none"]
    mode: Literal["SIA-H"]


class Auto(Named):
    """The algorithm is chosen by the shape of the reward (training/rules.py), or by the proposer."""

    kind: Literal["auto"]
    mode: Literal["SIA-W+H"]
    algorithms: dict[str, Algorithm]  # what may be chosen, with its settings


Trainer = Annotated[NoTrainer | Auto | Algorithm, Field(discriminator="kind")]


def allowed(trainer: Trainer) -> dict[str, Algorithm]:
    """By name, what may be trained with: all of trainer=auto, or the one that is fixed."""
    if isinstance(trainer, NoTrainer):
        return {}
    return {trainer.algorithm: trainer} if isinstance(trainer, Algorithm) else trainer.algorithms
