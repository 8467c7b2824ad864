"""What the loop needs of a proposer. Implementations: `recipes` (offline search), `replay` (harnesses of a folder)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sia_runner.records import Past, Proposal, Trial

Files = Mapping[str, str]


class ProposerError(Exception):
    """The proposer cannot be used as configured; the message is one line for the user (exit code 2)."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every proposer is built with: ``cls(context, **its own keys of conf/meta_agent)``."""

    task_name: str
    task_folder: Path  # tasks/<name>; declared recipes lie in its folder `recipes`
    reference: Path  # the task's reference harness, a folder or one file
    entry: str  # path of the program inside a harness
    seed: int


class Workbench(Protocol):
    """Where a proposer may try things before it proposes: sandboxed, on dev questions only, results kept for resume."""

    def try_out(self, batch: Sequence[Files], *, train_fraction: float, questions: int | None = None) -> list[Trial]:
        """Run each harness on `questions` dev questions (None: all) with that share of the training data."""
        ...


@dataclass(frozen=True, slots=True)
class Brief:
    """What a proposer is told for generation `n`."""

    n: int  # 1 is the first harness (written by the meta-agent)
    max_gen: int
    evidence: Path | None  # gen_<n>/evidence; None for generation 1
    history: Sequence[Past]
    incumbent: int | None  # generation of the best accepted candidate so far
    higher_is_better: bool


class Proposer(Protocol):
    def propose(self, brief: Brief, workbench: Workbench) -> Proposal:
        """The next candidate, or Lever.STOP with the reason in `rationale` when there is nothing left to try.

        Deterministic for (seed, brief, trial results), so that a resumed run proposes the same again.
        """
        ...
