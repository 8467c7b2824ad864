"""The typed schema of an experiment: every key, unit and bound. Illegal combinations are refused here.

Hydra composes; this module checks. Only what passes `check` is ever started.
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
    """Offline search over harness recipes: breadth first, then around the incumbent."""

    target: Literal["sia_runner.agents.recipes.Recipes"] = Field(alias="_target_")
    trials: Count = 8  # harnesses tried on dev questions per generation
    rungs: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]  # of a trial, rising
    keep: Annotated[float, Field(gt=0, le=1)] = 0.34  # share of the trials that reaches the next rung
    questions: Count | None = None  # dev questions per trial; null: all


class Replay(Named):
    """Proposes the harnesses found in a folder (gen_1, gen_2, ...), in order."""

    target: Literal["sia_runner.agents.replay.Replay"] = Field(alias="_target_")
    dir: Annotated[str, Field(min_length=1)]


class Llm(Named):
    """A tool-using loop over a language model: meta-agent in generation 1, feedback agent afterwards."""

    target: Literal["sia_runner.agents.llm.proposer.Llm"] = Field(alias="_target_")
    provider: Provider | None = None  # null: the experiment's provider
    turns: Count = 40  # model calls per proposal
    context_kb: Annotated[int, Field(ge=16)] = 256  # of one request, in KiB of JSON; older tool results are cut first
    trials: Annotated[int, Field(ge=0)] = 6  # runs on dev questions per proposal
    questions: Count = 8  # dev questions of one such run
    repairs: Annotated[int, Field(ge=0)] = 3  # proposals sent back with the reason before the candidate fails
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None  # null: the provider's own default
    max_tokens: Count = 16_384  # completion bound of one call


class Guest(Named):
    """An agent of another package, run inside our sandbox with the gateway as its only way out."""

    target: Literal[
        "sia_runner.agents.guests.claude_code.ClaudeCode",
        "sia_runner.agents.guests.openhands.OpenHands",
        "sia_runner.agents.guests.pydantic_ai.PydanticAI",
    ] = Field(alias="_target_")
    provider: Provider | None = None
    turns: Count = 40  # model calls per proposal; the gateway refuses more
    seconds: Positive = 900  # wall time of one proposal


class ForeignProposer(Named):
    """A proposer of the user's own: its keys are its constructor's business, and it may call the provider's model."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, populate_by_name=True)
    provider: Provider | None = None
    target: Annotated[str, Field(alias="_target_", pattern=r"^[\w.]+\.\w+$")]


def _which(meta_agent: Any) -> str:
    """The schema of a proposer is chosen by its class, so that a fault names the key and not every alternative."""
    target = str(meta_agent.get("_target_") if isinstance(meta_agent, dict) else meta_agent.target)
    if target.startswith("sia_runner.agents.guests."):
        return "Guest"
    ours = {f"sia_runner.agents.{name.lower()}.{name}": name for name in ("Recipes", "Replay")}
    return (ours | {"sia_runner.agents.llm.proposer.Llm": "Llm"}).get(target, "ForeignProposer")


MetaAgent = Annotated[
    Annotated[Recipes, Tag("Recipes")]
    | Annotated[Replay, Tag("Replay")]
    | Annotated[Llm, Tag("Llm")]
    | Annotated[Guest, Tag("Guest")]
    | Annotated[ForeignProposer, Tag("ForeignProposer")],
    Discriminator(_which),
]


class TargetAgent(Named):
    # what a harness is: `script` calls no model, `model` calls the provider's, `policy` calls one whose weights can be
    # trained; `auto`: policy where a trainer is named, model where there is a provider, script elsewhere
    kind: Literal["auto", "script", "model", "policy"]
    provider: Provider | None = None  # null: the experiment's provider
    policy: PolicySpec = Field(default_factory=PolicySpec)


class Accept(Part):
    rule: Literal["ladder", "mcnemar", "bootstrap"]
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05  # mcnemar, bootstrap: one-sided significance level


class Search(Part):
    """Which earlier candidate a proposal extends, how many are made at once, and when to stop."""

    # greedy: the incumbent; last: the newest scored candidate, as SIA does; archive: sampled by score and novelty
    name: Literal["greedy", "last", "archive"]
    width: Count = 1  # proposals per generation; the best of them on dev questions is the generation's candidate
    in_flight: Count = 1  # candidates under way at once; each is proposed without the verdicts on those under way
    patience: Count | None = None  # stop after so many generations without an accepted one; null: never
    novelty: Annotated[float, Field(ge=0)] = 1.0  # archive: weight of having been extended rarely
    accept: Accept


class Amounts(Part):
    """Limits on what is spent; null: none."""

    usd: Positive | None = None
    tokens: Count | None = None
    calls: Count | None = None
    minutes: Positive | None = None  # wall time


class Budget(Amounts):
    """Of the whole run, over all resumes; `minutes` does not cut the final test."""

    reserve: Share = 0.1  # at least this share of usd, tokens and calls is kept for the final test
    generation: Amounts = Field(default_factory=Amounts)  # of each generation


class Evidence(Part):
    failures: Annotated[int, Field(ge=0)] = 200  # dev failures shown to the proposer
    kb: Count = 512  # KiB of failures and trajectories together


class Experiment(Part):
    task: Task
    meta_agent: MetaAgent
    target_agent: TargetAgent
    provider: Provider
    trainer: Trainer
    lever: LeverRule = Field(default_factory=LeverRule)
    web: bool = False  # the live dashboard beside the run
    # stop before that lever is pulled, with the plan on disk; `python -m sia_runner.approve RUN` goes on
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
        return self.target_agent.provider or self.provider

    @property
    def meta_provider(self) -> Offline | Hosted:
        return getattr(self.meta_agent, "provider", None) or self.provider

    @property
    def proposer_calls_model(self) -> bool:
        """Can the proposer call a model? `llm` and the guests must, one of the user's own may."""
        able = "provider" in type(self.meta_agent).model_fields
        return able and self.meta_provider.kind != "offline"

    @property
    def has_policy(self) -> bool:
        """Is the harness's model one whose weights can be trained?"""
        kind = self.target_agent.kind
        return kind == "policy" or (kind == "auto" and self.trainer.kind != "none")

    @property
    def calls_model(self) -> bool:
        """Does the harness reach a model through the gateway?"""
        kind = self.target_agent.kind
        return self.has_policy or kind == "model" or (kind == "auto" and self.target_provider.kind != "offline")

    @property
    def needs_door(self) -> bool:
        """Does something in the sandbox reach the gateway: a harness, or a guest agent?"""
        return self.calls_model or isinstance(self.meta_agent, Guest)

    @model_validator(mode="after")
    def _combinations(self) -> "Experiment":
        combinations.refuse(self)
        return self


def check(composed: dict[str, Any]) -> Experiment:
    """The checked experiment. Raises pydantic.ValidationError; `problems.explain` makes its lines."""
    return Experiment.model_validate(composed)


def check_task(composed: dict[str, Any]) -> Task:
    """The checked task of an experiment whose other parts are not looked at. Raises pydantic.ValidationError."""
    return _OfTask.model_validate({"task": composed["task"]}).task


class _OfTask(Part):
    task: Task
