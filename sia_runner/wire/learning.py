"""The interface of everything that trains: a learner holds the weights, a sampler answers with a version of them.

A learner knows no algorithm. It is given a function that lowers a loss to a weight for each completion token, and adds
the gradient of sum(weight * logprob). So all algorithms work in process, sharded, and over a network, on the same
numbers. Every sequence of rows is in the order of the call's rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sia_runner.records import Json
from sia_runner.wire.policy import WeightsSource

if TYPE_CHECKING:  # commands that never train import this module
    import numpy as np
    from numpy.typing import NDArray

RowNumbers = Sequence["NDArray[np.float64]"]  # an array for each row, a number for each of its completion tokens


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One prompt with one completion: a model call, or a dialogue to learn from."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """The results of one forward pass over some rows of a call."""

    rows: Sequence[int]  # their numbers in the call's rows
    logprobs: RowNumbers  # of the weights now, at the temperature of the rollouts
    entropy: float | None = None  # nats, summed over completion tokens; None: the backend shows no distribution
    values: RowNumbers | None = None  # of the critic, where there is one: of the state before each completion token


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """The gradient of a loss with respect to the logprobs of a forward pass, and to the critic's values."""

    logprobs: RowNumbers
    values: RowNumbers | None = None


LowerLoss = Callable[[ForwardPass], TokenWeights]  # may be called for parts of the rows, in any order


@dataclass(frozen=True, slots=True)
class StepSettings:
    """The settings of one optimizer step of Adam, without weight decay."""

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    max_norm: float = 1.0  # the gradient of the adapter is clipped to it, and that of the critic apart; 0: it is not


@dataclass(frozen=True, slots=True)
class LearnerAbilities:
    """The abilities of a learner beyond the protocol; whoever needs more refuses it by name."""

    critic: bool  # a value head, which PPO needs
    entropy: bool  # of the whole distribution, not only of the sampled tokens
    temperature: bool  # logprobs at the temperature of the rollouts; False: always at 1
    processes: bool  # several processes, each with a part of the rows
    shares_base: bool = False  # forward(base=True) is the sampler's score of the base, so one call tells both
    overlap: bool = False  # the sampler goes on answering with what was published while weights are trained


class Learner(Protocol):
    """The trainable weights of one update: an adapter on a frozen base, its optimizer and, with PPO, a critic."""

    abilities: LearnerAbilities

    def forward(self, rows: Sequence[TrainingRow], *, base: bool = False) -> ForwardPass:
        """Return the logprobs of all rows without a gradient; with `base` those of the base without the adapter."""
        ...

    def backward(
        self, rows: Sequence[TrainingRow], lower: LowerLoss, *, together: Sequence[Sequence[int]] = ()
    ) -> list[ForwardPass]:
        """Add the gradient of sum(weight * logprob), and of sum(weight * value), to what was added since the last step.

        `lower` is given each forward pass and returns its weights, which hold for the whole step: nothing is divided
        here. Rows of one group of `together`, such as DPO's pairs, come in the same pass. Returns all passes.
        """
        ...

    def step(self, settings: StepSettings) -> float | None:
        """Take one optimizer step and clear the gradient. Return its norm before clipping; None: not reported."""
        ...

    def publish(self) -> str:
        """Have the sampler answer with the weights of now, and return their version."""
        ...

    def save(self, tag: str) -> Json:
        """Save adapter, optimizer and critic; return the small JSON that `load` takes. A tag is used once."""
        ...

    def load(self, state: Json) -> None:
        """Restore what `save` saved. Raises PolicyError, in one line, if it is lost or belongs to another base."""
        ...

    def forget(self, state: Json) -> None:
        """Delete what `save` saved elsewhere than in the folder of its tag, which the caller deletes.

        Any exception is allowed, also for a state that is gone already: a state too many stops no training.
        """
        ...

    def export(self, folder: Path, origin: Mapping[str, Any]) -> None:
        """Write the adapter as a folder of PEFT with its origin, complete or not at all."""
        ...


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """The settings of one sample; temperature 0 is greedy."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion, with the logprobs of the distribution that it was sampled from."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str  # stop | length
    version: str  # of the weights
    billed: int | None = None  # tokens that were generated, if more than `ids`


class Sampler(Protocol):
    """Answers with the published weights, with an adapter, or with the base; any thread may call it."""

    def sample(
        self, prompt_ids: Sequence[int], count: int, settings: SampleSettings, weights: WeightsSource
    ) -> list[Sample]:
        """Return `count` completions of a prompt. Raises CallError."""
        ...

    def score(self, rows: Sequence[TrainingRow], weights: WeightsSource) -> RowNumbers:
        """Return the logprobs that the served weights give to the rows' completion tokens. Raises CallError."""
        ...
