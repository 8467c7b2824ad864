"""The interface between the loop and a task. Implementations: `table` (native tasks) and `sia_folder` (task=custom)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sia_runner.errors import RunnerError
from sia_runner.records import Outcome, OutcomeKind, Score
from sia_runner.selection.scoring import Aggregate

FoldPurpose = Literal["gate", "trial", "select", "test", "rollout"]
ViewKeys = Mapping[str, str]  # id that the harness sees -> question


class TaskError(RunnerError):
    """The task cannot be used; the message is one line for the user (exit code 2)."""


@dataclass(frozen=True, slots=True)
class Fold:
    """A fold of a task: the labelled questions a harness may learn from, and the questions it has to answer."""

    train: Sequence[str]
    questions: Sequence[str]


@dataclass(frozen=True, slots=True)
class DatasetView:
    """A ``--dataset_dir`` on disk; `keys` stays on the host."""

    path: Path
    keys: ViewKeys


class Task(Protocol):
    """A task as the loop uses it. Only `failures` gives gold answers, and only those of dev."""

    name: str
    metric: str
    higher_is_better: bool
    has_test: bool  # False for a sia-agent folder that brings only its own evaluate.py
    folder: Path
    reference: Path  # the reference harness: a folder, or one file
    entry: str  # name of the program inside a harness
    executes: bool  # verifying runs what was submitted, in the sandbox

    @property
    def description(self) -> str:
        """The task's own task.md, without the part that is generated for each view."""
        ...

    @property
    def aggregate(self) -> Aggregate | None:
        """The function from outcomes to one number, for `scoring.accept`; None stands for the mean."""
        return None

    def prepare(self, say: Callable[[str], None]) -> None:
        """Fetch or make the data on first use; cached, checked, resumable, safe when two runs prepare at once."""

    def data_hashes(self) -> dict[str, str]:
        """Return file name -> sha256 of all data that the scores rest on."""
        ...

    def splits(self) -> Mapping[str, Sequence[str]]:
        """Return the questions of train, rollout, dev, val and test; the five are disjoint."""
        ...

    def rounds(
        self, purpose: FoldPurpose, train_fraction: float = 1, questions: int | None = None, units: Sequence[str] = ()
    ) -> list[Fold]:
        """Return the folds that `purpose` takes: one, or one per fold where the task cross-fits `select`.

        gate: a few dev questions, little training data. trial: dev questions (at most `questions`) and `train_fraction`
        of train. select: dev + val, mixed. test: test questions, train holds every other label. rollout: one fold over
        `units` of the split rollout; train is `train` without near-duplicates of any rollout question. Raises TaskError
        where the split rollout is empty: such a task has no weights lever.
        """
        ...

    def dialogues(self) -> list[tuple[str, str]]:
        """Return (prompt, answer) for each question of train, to warm a policy. Raises TaskError if none."""
        ...

    def lay_out(self, fold: Fold, dest: Path, salt: str) -> DatasetView:
        """Write the view of one fold to `dest`; ids are re-keyed and questions shuffled by `salt` (deterministic)."""
        ...

    def collect(self, work: Path, dest: Path) -> None:
        """Copy the submission out of hostile `work` into `dest`: regular files only, no links followed, size capped."""

    def verify(
        self, submission: Path, keys: ViewKeys, unanswered: OutcomeKind, sandbox_command: Sequence[str] = ()
    ) -> list[Outcome]:
        """Return one outcome per question of the view, computed in a process of its own.

        `unanswered` is the kind for questions without an answer: no_answer, or how the run ended. `sandbox_command`
        runs a program in the run's sandbox, for tasks whose submission is code (see `executes`).
        """
        ...

    def score(self, outcomes: Sequence[Outcome]) -> Score:
        """Aggregate outcomes, with a 95% interval. The denominator is len(outcomes)."""
        ...

    def official_grade(self, submission: Path, keys: ViewKeys, score: Score) -> Mapping[str, Any] | None:
        """Return an official grader's or a leaderboard's result for a test submission; None for tasks without them."""
        del submission, keys, score
        return None

    def failures(self, outcomes: Sequence[Outcome], limit: int) -> list[dict[str, Any]]:
        """Describe outcomes of dev that were not fully correct: question fields (cut), prediction, gold, kind."""
        ...
