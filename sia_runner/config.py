"""The typed schema of an experiment: every key, unit and bound. Illegal combinations are refused here.

Hydra composes; this module checks. Only what passes `check` is ever started.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from sia_runner.schema import Component, Count, Named, Part, Positive
from sia_runner.task_config import Task


class Recipes(Named):
    """Offline search over harness recipes: breadth first, then around the incumbent."""

    target: Literal["sia_runner.agents.recipes.Recipes"] = Field(alias="_target_")
    trials: Count = 8  # harnesses tried on dev questions per generation
    rungs: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]  # shares of train, rising
    keep: Annotated[float, Field(gt=0, le=1)] = 0.34  # share of the trials that reaches the next rung
    questions: Count | None = None  # dev questions per trial; null: all


class Replay(Named):
    """Proposes the harnesses found in a folder (gen_1, gen_2, ...), in order."""

    target: Literal["sia_runner.agents.replay.Replay"] = Field(alias="_target_")
    dir: Annotated[str, Field(min_length=1)]


class ForeignProposer(Named):
    """A proposer of the user's own; its keys are its constructor's business."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, populate_by_name=True)
    target: Annotated[str, Field(alias="_target_", pattern=r"^[\w.]+\.\w+$")]


def _which(meta_agent: Any) -> str:
    """The schema of a proposer is chosen by its class, so that a fault names the key and not every alternative."""
    target = str(meta_agent.get("_target_") if isinstance(meta_agent, dict) else meta_agent.target)
    ours = {f"sia_runner.agents.{name.lower()}.{name}": name for name in ("Recipes", "Replay")}
    return ours.get(target, "ForeignProposer")


MetaAgent = Annotated[
    Annotated[Recipes, Tag("Recipes")]
    | Annotated[Replay, Tag("Replay")]
    | Annotated[ForeignProposer, Tag("ForeignProposer")],
    Discriminator(_which),
]


class TargetAgent(Named):
    calls_model: bool  # does the harness call a model through the gateway?


class Provider(Named):
    kind: Literal["offline"]  # offline: no model can be called


class Trainer(Named):
    kind: Literal["none", "online", "offline"]
    mode: Literal["SIA-H", "SIA-W+H"]


class Sandbox(Component):
    memory_mb: Annotated[int, Field(ge=64)] = 4096
    processes: Annotated[int, Field(ge=4)] = 64
    disk_mb: Count = 512  # of work/
    file_mb: Count = 256  # of one file
    output_kb: Annotated[int, Field(ge=1, le=1024 * 1024)] = 1024  # kept of stdout and stderr
    cpus: Count = 1
    allow_installs: bool = False  # may a harness bring requirements.txt?


class Compute(Component):
    workers: Count = 1  # sandboxes at work at the same time


class Tracker(Component):
    pass


class Accept(Part):
    rule: Literal["ladder", "mcnemar", "bootstrap"]
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05  # mcnemar, bootstrap: one-sided significance level


class Search(Part):
    name: Literal["greedy"]
    accept: Accept


class Budget(Part):
    minutes: Positive | None = None  # wall time of the generations, over all resumes; the final test is not cut


class Evidence(Part):
    failures: Annotated[int, Field(ge=0)] = 200  # dev failures shown to the proposer


class Experiment(Part):
    task: Task
    meta_agent: MetaAgent
    target_agent: TargetAgent
    provider: Provider
    trainer: Trainer
    sandbox: Sandbox
    compute: Compute
    tracker: Tracker
    search: Search
    max_gen: Annotated[int, Field(ge=1, le=10_000)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    budget: Budget
    evidence: Evidence

    @model_validator(mode="after")
    def _combinations(self) -> "Experiment":
        if self.trainer.kind != "none" and not self.target_agent.calls_model:
            raise ValueError(
                f"trainer={self.trainer.name} trains the model that a harness calls, "
                f"but target_agent={self.target_agent.name} calls none; allowed with it: trainer=none"
            )
        if self.search.accept.rule == "mcnemar" and self.task.metric.verifier == "auc":
            raise ValueError(
                "search.accept.rule=mcnemar counts single questions, but task.metric.verifier=auc has no score of one; "
                "allowed with it: ladder, bootstrap"
            )
        if self.target_agent.calls_model and self.provider.kind == "offline":
            raise ValueError(
                f"target_agent={self.target_agent.name} calls a model, but provider={self.provider.name} serves none; "
                "allowed with it: target_agent=script"
            )
        return self


def check(composed: dict[str, Any]) -> Experiment:
    """The checked experiment. Raises pydantic.ValidationError; `problems.explain` makes its lines."""
    return Experiment.model_validate(composed)
