"""Defines the proposer interface: what the loop needs of a proposer, and what a proposer gets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sia_runner.errors import RunnerError
from sia_runner.records import Json, ModelReply, PastGeneration, Proposal, Trial, Usage

Files = Mapping[str, str]
Services = Mapping[str, Callable[[Json], Json]]  # name -> what the host does for a guest; the data is not trusted
Message = Mapping[str, Any]


class ProposerError(RunnerError):
    """A proposer that cannot be used as configured; the message is one line for the user (exit code 2)."""


@dataclass(frozen=True, slots=True)
class ProposerContext:
    """The task facts that every proposer is built with: ``cls(context, **its own keys of conf/meta_agent)``."""

    task_name: str
    task_folder: Path  # tasks/<name>, or its `with_model`; declared recipes lie in its folder `recipes`
    reference: Path  # the task's reference harness, a folder or one file
    entry: str  # path of the program inside a harness
    seed: int
    description: str = ""  # the task's task.md, as a harness finds it (without the part made for each view)
    submission: str = ""  # name of the file that a harness writes; empty where only the description says it
    limits_seconds: float = 600.0  # wall time of one run of a harness
    calls_model: bool = False  # can a harness reach a model through the gateway?


@dataclass(frozen=True, slots=True)
class GuestResult:
    """The result of a guest agent's run. `files` are the text files of its workspace's folder `harness`."""

    files: Files
    failure: str  # one line; empty when the program ended well
    output: str  # the tail of what it printed
    usage: Usage


@dataclass(frozen=True, slots=True)
class WeightsLever:
    """The weights lever: ``Proposal(Lever.WEIGHTS, ...)`` with the parent's harness unchanged, or ``Lever.BOTH``.

    Its ``algorithm`` is a key of `algorithms`, or None to take what the rules choose.
    """

    algorithms: Mapping[str, str]  # what may be trained with -> what it is for
    due_reason: str = ""  # why, by the rules, the weights are to be trained now; empty: it is the harness's turn


@dataclass(frozen=True, slots=True)
class MeasuredRewards:
    """The rewards of a few rollouts of a harness on rollout questions, and what follows from them."""

    shape: Mapping[str, float]  # statistics; see training/shape.py
    suggested: str  # the algorithm that the rules give; empty: none
    why: str  # the rule with its numbers, or why there is none
    refused: Mapping[str, str]  # algorithm -> why it cannot be trained with now
    minutes: Mapping[str, float | None]  # algorithm -> estimate of an update and of scoring it; None: not known


@dataclass(frozen=True, slots=True)
class EarlierCandidate:
    """An earlier candidate. `failures` are dev questions that it did not fully solve, with the right answers."""

    files: Files  # empty where no harness was built
    failures: Sequence[Json]  # the most representative first; empty where it was not scored


class Workbench(Protocol):
    """The place where a proposer tries harnesses: sandboxed, dev questions only, results stored for resume."""

    def chat(self, messages: Sequence[Message], tools: Sequence[Message] = (), **settings: Any) -> ModelReply:
        """Call the proposer's model once; messages, tools and settings are in OpenAI's chat completions shape.

        The call is in the ledger and recorded: a resumed proposal that sends the same again gets the recorded answer.
        Exceptions (budget spent, provider down) end the proposal: do not catch them.
        """
        ...

    def host(
        self,
        program: Files,
        entry: str,
        *,
        inputs: Path,
        harness: Files,
        calls: int,
        seconds: float,
        services: Services | None = None,
    ) -> GuestResult:
        """Run another package's agent in the sandbox: ``python entry --dataset_dir INPUTS --working_dir W``.

        `harness` is copied to W/harness, which the agent changes; the gateway answers at most `calls` model calls, and
        has `services` answer what is posted to its path /sia/NAME, one at a time. What a service raises is raised here.
        """
        ...

    def earlier_candidate(self, n: int) -> EarlierCandidate:
        """Return the harness of an earlier candidate, and dev questions that it failed."""
        ...

    def try_out(self, batch: Sequence[Files], *, share: float, questions: int | None = None) -> list[Trial]:
        """Run each harness on `questions` dev questions (None: all) with that share of the training data.

        A harness that calls a model runs on that share of the questions instead: calls are its cost.
        """
        ...

    def measure(self, files: Files) -> MeasuredRewards:
        """Roll this harness out a few times on the parent's weights; the result is stored and repeats cost nothing.

        Raises ProposerError where the brief has no `weights`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Brief:
    """The information that a proposer gets for generation `n`."""

    n: int  # 1 is the first harness (written by the meta-agent)
    max_gen: int
    evidence: Path | None  # gen_<n>/evidence; None for generation 1
    history: Sequence[PastGeneration]
    incumbent: int | None  # generation of the best accepted candidate so far
    higher_is_better: bool
    parent: int | None = None  # generation whose harness is to be extended, as `search` chose; None in generation 1
    partner: int | None = None  # a generation to merge with it: evidence/partner; None: extend the parent alone
    weights: WeightsLever | None = None  # None: the harness is the only lever of this proposal
    sibling: int = 0  # index among the parallel proposals, from 0
    blind: bool = False  # a search without feedback (a control arm): draw at random, and try nothing out
    directions: Sequence[str] = ()  # notes of the person who runs the experiment, the oldest first, a line each

    @property
    def first(self) -> bool:
        """True if the proposal starts from nothing but the task: generation 1, and all of a blind search."""
        return self.n == 1 or self.blind


class Proposer(Protocol):
    """The interface of every proposer.

    A class that can answer with ``Lever.WEIGHTS`` or ``BOTH`` sets ``pulls_weights = True``; for all others the written
    rules decide when the weights are trained.
    """

    def propose(self, brief: Brief, workbench: Workbench) -> Proposal:
        """Return the next candidate, or Lever.STOP with the reason in `rationale` when nothing is left to try.

        Deterministic for (seed, brief, trial results), so that a resumed run proposes the same again.
        """
        ...
