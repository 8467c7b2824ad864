"""The typed schema of an experiment defines every key, unit and bound, and refuses illegal combinations.

Hydra composes a configuration and this module checks it. A run starts only with a configuration that passed `check`.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from sia_runner.schema import combinations
from sia_runner.schema.compute import Compute
from sia_runner.schema.parts import Count, Named, Part, Positive, Share
from sia_runner.schema.provider import Hosted, Offline, Provider
from sia_runner.schema.sandbox import Sandbox
from sia_runner.schema.task import Task
from sia_runner.schema.tracker import Tracker
from sia_runner.schema.training import LeverRule, PolicySpec, Trainer


class Recipes(Named):
    """Settings of `recipes`: offline search over harness recipes, breadth first, then around the incumbent."""

    target: Literal["sia_runner.agents.recipes.Recipes"] = Field(alias="_target_")
    trials: Count = 8  # harnesses tried on dev questions per generation
    rungs: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]  # shares of a trial, increasing
    keep: Annotated[float, Field(gt=0, le=1)] = 0.34  # share of the trials that reaches the next rung
    questions: Count | None = None  # dev questions per trial; null: all


class Replay(Named):
    """Settings of `replay`, which proposes the harnesses of a folder (gen_1, gen_2, ...) in order."""

    target: Literal["sia_runner.agents.replay.Replay"] = Field(alias="_target_")
    dir: Annotated[str, Field(min_length=1)]


class Llm(Named):
    """Settings of `llm`: a language model with tools, meta-agent in generation 1, feedback agent afterwards."""

    target: Literal["sia_runner.agents.llm.proposer.Llm"] = Field(alias="_target_")
    provider: Provider | None = None  # null: the experiment's provider
    turns: Count = 40  # model calls per proposal
    context_kb: Annotated[int, Field(ge=16)] = 256  # KiB of JSON of one request; older tool results are cut first
    trials: Annotated[int, Field(ge=0)] = 6  # runs on dev questions per proposal
    questions: Count = 8  # dev questions of one such run
    repairs: Annotated[int, Field(ge=0)] = 3  # invalid proposals returned with the reason before the candidate fails
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None  # null: the provider's own default
    max_tokens: Count = 16_384  # completion bound of one call


class Guest(Named):
    """Settings of an agent of another package, which runs in our sandbox and reaches only the gateway."""

    target: Literal[
        "sia_runner.agents.guests.claude_code.ClaudeCode",
        "sia_runner.agents.guests.openhands.OpenHands",
        "sia_runner.agents.guests.pydantic_ai.PydanticAI",
    ] = Field(alias="_target_")
    provider: Provider | None = None
    turns: Count = 40  # model calls per proposal; the gateway refuses more
    seconds: Positive = 900  # wall time of one proposal


class ForeignProposer(Named):
    """Settings of a user's own proposer: its constructor checks the keys, and it may call the provider's model."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, populate_by_name=True)
    provider: Provider | None = None
    target: Annotated[str, Field(alias="_target_", pattern=r"^[\w.]+\.\w+$")]


def _proposer_schema(meta_agent: Any) -> str:
    """Choose the schema by the proposer's class, so that an error names the key and not every alternative."""
    target = str(meta_agent.get("_target_") if isinstance(meta_agent, dict) else meta_agent.target)
    if target.startswith("sia_runner.agents.guests."):
        return "Guest"
    schemas = {f"sia_runner.agents.{name.lower()}.{name}": name for name in ("Recipes", "Replay")}
    return (schemas | {"sia_runner.agents.llm.proposer.Llm": "Llm"}).get(target, "ForeignProposer")


MetaAgent = Annotated[
    Annotated[Recipes, Tag("Recipes")]
    | Annotated[Replay, Tag("Replay")]
    | Annotated[Llm, Tag("Llm")]
    | Annotated[Guest, Tag("Guest")]
    | Annotated[ForeignProposer, Tag("ForeignProposer")],
    Discriminator(_proposer_schema),
]


class TargetAgent(Named):
    """The kind of harness, and the model that it calls."""

    # `script` calls no model, `model` calls the provider's, `policy` calls one whose weights can be trained;
    # `auto`: policy if a trainer is named, model if there is a provider, else script
    kind: Literal["auto", "script", "model", "policy"]
    provider: Provider | None = None  # null: the experiment's provider
    policy: PolicySpec = Field(default_factory=PolicySpec)


class Accept(Part):
    """The rule by which a candidate replaces the incumbent."""

    rule: Literal["ladder", "mcnemar", "bootstrap"]
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05  # mcnemar, bootstrap: one-sided significance level


class Search(Part):
    """The choice of the candidate that a proposal extends, the number of proposals, and when to stop."""

    # greedy: the incumbent; last: the newest scored candidate, as SIA does; archive: sampled by score and novelty
    name: Literal["greedy", "last", "archive"]
    width: Count = 1  # proposals per generation; the best of them on dev questions is the generation's candidate
    in_flight: Count = 1  # candidates in parallel; each is proposed without the verdicts on the others
    patience: Count | None = None  # stop after so many generations without an accepted one; null: never
    novelty: Annotated[float, Field(ge=0)] = 1.0  # archive: weight of a low number of extensions
    accept: Accept


class Amounts(Part):
    """Limits on spending; null: no limit."""

    usd: Positive | None = None
    tokens: Count | None = None
    calls: Count | None = None
    minutes: Positive | None = None  # wall time


class Budget(Amounts):
    """The budget of the whole run, over all resumes; `minutes` does not cut the final test."""

    reserve: Share = 0.1  # at least this share of usd, tokens and calls is reserved for the final test
    generation: Amounts = Field(default_factory=Amounts)  # of each generation


class Evidence(Part):
    """The amount of evidence that a proposer gets."""

    failures: Annotated[int, Field(ge=0)] = 200  # dev failures shown to the proposer
    kb: Count = 512  # KiB of failures and trajectories together


class Experiment(Part):
    """One composed and checked experiment."""

    task: Task
    meta_agent: MetaAgent
    target_agent: TargetAgent
    provider: Provider
    trainer: Trainer
    lever: LeverRule = Field(default_factory=LeverRule)
    web: bool = False  # the live dashboard beside the run
    # stop before a generation with that lever, with the plan on disk; `python -m sia_runner.approve RUN` continues
    approve: Literal["none", "weights", "all"] = "none"
    sandbox: Sandbox
    compute: Compute
    tracker: Tracker
    search: Search
    max_gen: Annotated[int, Field(ge=1, le=10_000)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    budget: Budget
    evidence: Evidence

    @property
    def target_provider(self) -> Offline | Hosted:
        """The provider of the harness."""
        return self.target_agent.provider or self.provider

    @property
    def meta_provider(self) -> Offline | Hosted:
        """The provider of the proposer."""
        return getattr(self.meta_agent, "provider", None) or self.provider

    @property
    def proposer_calls_model(self) -> bool:
        """True if the proposer can call a model: `llm` and the guests must, a user's own may."""
        has_provider = "provider" in type(self.meta_agent).model_fields
        return has_provider and self.meta_provider.kind != "offline"

    @property
    def has_policy(self) -> bool:
        """True if the weights of the harness's model can be trained."""
        kind = self.target_agent.kind
        return kind == "policy" or (kind == "auto" and self.trainer.kind != "none")

    @property
    def calls_model(self) -> bool:
        """True if the harness calls a model through the gateway."""
        kind = self.target_agent.kind
        return self.has_policy or kind == "model" or (kind == "auto" and self.target_provider.kind != "offline")

    @property
    def needs_door(self) -> bool:
        """True if a harness or a guest agent in the sandbox calls the gateway."""
        return self.calls_model or isinstance(self.meta_agent, Guest)

    @model_validator(mode="after")
    def _combinations(self) -> "Experiment":
        combinations.refuse(self)
        return self


def check(composed: dict[str, Any]) -> Experiment:
    """Return the checked experiment; raises pydantic.ValidationError, which `problems.explain` turns into lines."""
    return Experiment.model_validate(composed)


def check_task(composed: dict[str, Any]) -> Task:
    """Return the checked task of an unchecked experiment; raises pydantic.ValidationError."""
    return _TaskSection.model_validate({"task": composed["task"]}).task


class _TaskSection(Part):
    task: Task
