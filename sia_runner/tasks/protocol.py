"""What the loop needs of a task. Implementations: `table` (native tasks) and `sia_folder` (task=custom)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from sia_runner.ground.scoring import Aggregate
from sia_runner.records import Outcome, OutcomeKind, Score

Purpose = Literal["gate", "trial", "select", "test", "rollout"]


class TaskError(Exception):
    """The task cannot be used; the message is one line for the user (exit code 2)."""


@dataclass(frozen=True, slots=True)
class Round:
    """One run of a harness: the labelled units it may learn from, and the units it is asked."""

    train: Sequence[str]
    questions: Sequence[str]


@dataclass(frozen=True, slots=True)
class View:
    """A laid-out ``--dataset_dir``. `keys` maps the id the harness sees to the unit; it never leaves the host side."""

    path: Path
    keys: Mapping[str, str]


class Task(Protocol):
    """A unit is a question's own id in the data. No method gives gold answers except through `failures` (dev only)."""

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
        """How outcomes become one number, for `scoring.accept`; None is the mean."""
        ...

    def prepare(self, say: Callable[[str], None]) -> None:
        """Fetch or make the data on first use; cached, checked, resumable, safe when two runs prepare at once."""
        ...

    def data_hashes(self) -> dict[str, str]:
        """File name -> sha256 of all data the scores rest on."""
        ...

    def splits(self) -> Mapping[str, Sequence[str]]:
        """Units of train, rollout, dev, val and test (disjoint; `rollout` is a part of no other split)."""
        ...

    def rounds(
        self,
        purpose: Purpose,
        *,
        train_fraction: float = 1.0,
        questions: int | None = None,
        units: Sequence[str] = (),
    ) -> list[Round]:
        """The runs that `purpose` takes: one, or one per fold where the task cross-fits `select`.

        gate: a handful of dev questions, little training data. trial: dev questions (at most `questions`) and
        `train_fraction` of train. select: dev + val, mixed. test: test questions, train holds every other label.
        rollout: one run over `units` of the split rollout; train is `train` without near-duplicates of any rollout
        question. Raises TaskError where the split rollout is empty: such a task has no weights lever.
        """
        ...

    def dialogues(self) -> list[tuple[str, str]]:
        """What is asked of a model and what it should answer, for each unit of train: public text, to warm a policy on.
        Raises TaskError where the task does not say how a model is asked."""
        ...

    def lay_out(self, round_: Round, dest: Path, salt: str) -> View:
        """Write the files of one round to `dest`; ids re-keyed and questions shuffled by `salt` (deterministic)."""
        ...

    def collect(self, work: Path, dest: Path) -> None:
        """Copy the submission out of hostile `work` into `dest`: regular files only, no links followed, size capped."""
        ...

    def verify(
        self, submission: Path, view_keys: Mapping[str, str], unanswered: OutcomeKind, chamber: Sequence[str] = ()
    ) -> list[Outcome]:
        """One outcome per asked unit, in a process of its own. `unanswered` is the kind for questions without answer
        (no_answer, or how the run ended: crashed, timeout, out_of_memory). `chamber`: a command that runs a program in
        the run's sandbox, for tasks whose submission is code (see `executes`)."""
        ...

    def score(self, outcomes: Sequence[Outcome]) -> Score:
        """Aggregate with a 95% interval. The denominator is len(outcomes)."""
        ...

    def standing(self, submission: Path, view_keys: Mapping[str, str], score: Score) -> Mapping[str, Any] | None:
        """What others make of a test submission that has this score: an official grader, a leaderboard's medal. None
        for tasks that have neither."""
        ...

    def failures(self, outcomes: Sequence[Outcome], limit: int) -> list[dict[str, Any]]:
        """For dev evidence: question fields (long ones cut), prediction, gold, kind of what was not fully correct."""
        ...
