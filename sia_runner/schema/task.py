"""The schema of conf/task/*.yaml: where data comes from, how it is split, judged and bounded."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sia_runner.schema.competitions import named
from sia_runner.schema.parts import Count, Named, Part, Positive, Share
from sia_runner.schema.training import Tiny

_ROUNDING = 1e-9  # 0.2 + 0.7 + 0.1 is less than 1 in binary
OneByOne = Literal["exact_match", "choice", "letter", "numeric"]
Together = Literal["auc", "rmse", "rmsle", "mae", "log_loss", "quadratic_kappa", "macro_f1"]  # of all questions
ERRORS = frozenset({"rmse", "rmsle", "mae", "log_loss"})  # verifiers by name for which lower is better


class Metric(Part):
    name: str
    higher_is_better: bool = True
    # how one answer is judged: a common verifier by name, or `python` for verifier.py in the task's folder
    verifier: Literal[OneByOne, Together, "python"] = "exact_match"
    # choice, letter: the allowed answers; auc: [negative, positive]; log_loss: the classes, each a column of answers
    choices: list[str] | None = None
    tolerance: Annotated[float, Field(ge=0)] = 0.0  # numeric: absolute error that still counts as correct


class Data(Part):
    """Where the data comes from: a pinned wheel, a script in the task's folder, both (the script converts files of the
    wheel), a script and what the user has, or none of these: files in the task's folder."""

    wheel: str | None = None  # name==version, fetched once through the user's own package index settings
    sha256: str | None = None  # of the wheel
    script: str | None = None  # program in the task's folder: script.py --out DIR, with a wheel also --source DIR
    arguments: dict[str, str | int | float] = Field(default_factory=dict)  # name -> value: script.py --name value
    modules: list[str] = Field(default_factory=list)  # files beside the script that it imports
    local: str | None = None  # a file or folder that the user has, for the script: --source PATH
    files: list[str] = Field(default_factory=list)  # of the wheel, for the script; in DIR they keep their paths
    labelled: str  # CSV with answers
    test: str | None = None  # CSV of test questions; null: test is cut from `labelled`
    answers: str | None = None  # CSV with the answers of `test`
    extra: dict[str, str] = Field(default_factory=dict)  # further files of every view: name -> path in the source
    about: str | None = None  # a text of the source that is put behind task.md
    licence: str = "not stated"

    @model_validator(mode="after")
    def _sources(self) -> "Data":
        if bool(self.files) != bool(self.wheel and self.script):
            raise ValueError(
                "data.files names what data.script converts of data.wheel: give all three, or not data.files"
            )
        if not self.script and (self.arguments or self.modules or self.local):
            raise ValueError("data.arguments, data.modules and data.local are for data.script: name it")
        if self.local and self.wheel:
            raise ValueError("data.local and data.wheel are both a source for data.script: give one of them")
        if self.wheel and not self.sha256:
            raise ValueError("data.wheel needs data.sha256")
        if (self.test is None) != (self.answers is None):
            raise ValueError("data.test and data.answers come together")
        return self


class Columns(Part):
    id: str = "id"
    answer: str = "label"
    # columns whose cells are paths of files in the prepared folder; the answer may be one of them
    files: list[str] = Field(default_factory=list)
    # ids like 0013_02 keep their form and grouping in a view, re-labelled; groups are never cut by a split
    grouped_ids: bool = False

    @property
    def answer_is_file(self) -> bool:
        return self.answer in self.files


class Splits(Part):
    """Shares of the labelled units; what is left is train. `rollout` is a share of train."""

    dev: Share = 0.1
    val: Share = 0.2  # where nothing is left for train, and with folds > 1: all that is not dev or test
    test: Share = 0.0  # only for tasks without test questions of their own
    rollout: Share = 0.25
    stratify: bool | str = True  # by answer; a text: by that column of the questions
    folds: Annotated[int, Field(ge=1, le=20)] = 1  # >1: dev + val are cross-fitted, one run per fold

    @model_validator(mode="after")
    def _shares(self) -> "Splits":
        if self.val == 0:
            raise ValueError("splits.val must be above 0: candidates are selected on it")
        if self.dev == 0:
            raise ValueError("splits.dev must be above 0: proposers learn from its failures")
        if self.dev + self.val + self.test > 1 + _ROUNDING and self.folds == 1:
            raise ValueError("splits.dev + splits.val + splits.test must stay below 1, or be 1 to learn nothing")
        if self.dev + self.test >= 1:
            raise ValueError("splits.dev + splits.test must stay below 1: what they leave is val")
        return self

    @property
    def leaves_train(self) -> bool:
        """Are some labelled units train (and rollout)? Otherwise all of them are dev, val or test."""
        return self.folds == 1 and self.dev + self.val + self.test < 1 - _ROUNDING


class Said(Part):
    """How a labelled row is said to a policy that is warmed on the task: format strings over the columns' names, like
    ``{text:.240}``, which is what the task's harnesses that call a model have to ask."""

    prompt: str
    answer: str


class Published(Part):
    """Figures of others on this task, in metric units, for reports to show beside ours; never compared by a test.
    `protocol`: in what theirs was another experiment."""

    source: str
    protocol: str
    initial: float | None = None
    prior: float | None = None  # the best before
    sia_h: float | None = None
    sia_wh: float | None = None


class Gate(Part):
    questions: Count = 8
    train: Count = 600  # at most this many labelled units


class TaskLimits(Part):
    """Seconds."""

    run: Positive = 600
    gate: Positive = 60
    verify: Positive = 60
    verify_mb: Count | None = 4096  # address space of the verifier's process; null where it needs a GPU's
    submission_mb: Count = 64  # of all its files together
    submission_files: Count = 1000  # for a submission that is a folder


class TableTask(Named):
    target: Literal["sia_runner.tasks.table.TableTask"] = Field(alias="_target_")
    dir: str | None = None  # null: the bundled folder of that name, or of `folder`
    folder: str | None = None  # a bundled folder that several tasks share
    data: Data
    columns: Columns = Field(default_factory=Columns)
    runs_submission: bool = False  # verifier.py executes what was submitted, in the sandbox
    needs_gpu: bool = False  # and there on a GPU, which the sandbox has to show
    submission: str = "submission.csv"  # with metric.verifier=python also another file, or a folder: `name/`
    questions_as: str | None = None  # a second name for questions.csv, where a task had one
    metric: Metric
    splits: Splits = Field(default_factory=Splits)
    gate: Gate = Field(default_factory=Gate)
    limits: TaskLimits = Field(default_factory=TaskLimits)
    needs_model: bool = False  # no harness can answer without a model: refused without a provider
    requires: list[str] = Field(default_factory=list)  # modules that verifying imports
    published: Published | None = None
    said: Said | None = None  # null: the question's columns, one a line, and the answer
    tiny: Tiny = Field(default_factory=Tiny)  # what base=tiny is for this task
    tiny_steps: Count = 16  # of an online update of it: enough that most rollout questions are drawn twice

    @property
    def answer_columns(self) -> list[str]:
        """Of the submission, beside the id."""
        return self.metric.choices or [] if self.metric.verifier == "log_loss" else [self.columns.answer]

    @model_validator(mode="after")
    def _fits_together(self) -> "TableTask":
        verifier, choices = self.metric.verifier, self.metric.choices or []
        if verifier == "choice" and len(choices) < 2:
            raise ValueError("metric.verifier=choice needs metric.choices, two or more")
        if verifier == "letter" and (len(choices) < 2 or not all(re.fullmatch("[A-Z]", name) for name in choices)):
            raise ValueError(
                "metric.verifier=letter needs metric.choices, two or more capital letters like [A, B, C, D]"
            )
        if verifier == "auc" and len(choices) != 2:
            raise ValueError("metric.verifier=auc needs metric.choices: [negative, positive]")
        if verifier == "log_loss" and len(choices) < 2:
            raise ValueError("metric.verifier=log_loss needs metric.choices, the classes that get a probability each")
        if verifier != "python" and self.metric.higher_is_better == (verifier in ERRORS):
            what = "is an error" if verifier in ERRORS else "counts right answers"
            allowed = str(verifier not in ERRORS).lower()
            raise ValueError(f"metric.verifier={verifier} {what}: metric.higher_is_better must be {allowed}")
        if verifier != "python" and self.runs_submission:
            raise ValueError("runs_submission: true takes metric.verifier=python")
        if self.needs_gpu and not self.runs_submission:
            raise ValueError("needs_gpu: true is for a task with runs_submission: true")
        if verifier != "python" and not self.submission.endswith(".csv"):
            raise ValueError(f"metric.verifier={verifier} reads a table: submission must end with .csv")
        if self.columns.answer_is_file and (verifier != "python" or self.splits.stratify is True):
            raise ValueError(
                "an answer that is a file (columns.files) takes metric.verifier=python, and splits.stratify=false or a "
                "column"
            )
        if self.columns.files and self.data.wheel and not self.data.script:
            raise ValueError(
                "columns.files needs data.script, or files in the task's folder: of a wheel too few are kept"
            )
        if (self.data.test is None) == (self.splits.test == 0):
            raise ValueError("give either data.test (with data.answers) or splits.test above 0, one of the two")
        return self


class SiaFolderTask(Named):
    """A task folder of the sia-agent package, run as it is."""

    target: Literal["sia_runner.tasks.sia_folder.SiaFolder"] = Field(alias="_target_")
    dir: Annotated[str, Field(min_length=1)]
    reference: str | None = None  # file or folder that the first harness is taken from; null: the folder's own
    metric: Metric
    limits: TaskLimits = Field(default_factory=TaskLimits)
    needs_model: bool = False


class MlebenchTask(Named):
    """A Kaggle competition in the layout that MLE-bench prepares."""

    target: Literal["sia_runner.tasks.mlebench.task.Mlebench"] = Field(alias="_target_")
    competition: str
    prepared: str | None = None  # holds COMPETITION/prepared/{public,private}; null: where mlebench keeps its data
    most_rows: Count = 200_000  # labelled rows that are used; of more, a seeded sample
    splits: Splits = Field(default_factory=Splits)
    gate: Gate = Field(default_factory=Gate)
    limits: TaskLimits = Field(default_factory=TaskLimits)
    needs_model: bool = False
    published: Published | None = None
    tiny: Tiny = Field(default_factory=Tiny)
    tiny_steps: Count = 16

    @field_validator("competition")
    @classmethod
    def _known(cls, competition: str) -> str:
        named(competition)
        return competition

    @property
    def metric(self) -> Metric:
        """The competition's own."""
        one = named(self.competition)
        better = one.verifier not in ERRORS
        return Metric.model_validate({"name": one.metric, "verifier": one.verifier, "higher_is_better": better})


Task = Annotated[TableTask | SiaFolderTask | MlebenchTask, Field(discriminator="target")]
