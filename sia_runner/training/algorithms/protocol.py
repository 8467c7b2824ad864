"""The interfaces of algorithms to the two drivers, which know no algorithm by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from sia_runner.records import Trajectory
from sia_runner.training.batch import Batch, Bools


@dataclass(frozen=True, slots=True)
class Loss:
    """The policy loss, in terms of TRL's GRPOConfig.

    TRL adds `beta` times its per-token estimate of the KL to the reference model, which has to be the base.
    """

    loss_type: str
    epsilon: float  # the importance ratio is clipped to [1 - epsilon, 1 + epsilon_high]
    epsilon_high: float
    beta: float  # weight of the KL to the base
    importance_level: str  # token | sequence
    iterations: int  # optimizer steps on each batch of rollouts (num_iterations)


@dataclass(frozen=True, slots=True)
class Signal:
    """The training signal of each token of a batch; axes as in Batch, 0 on padding."""

    advantage_bt: NDArray[Any]  # float32
    used_b: Bools  # rows that belong to the step; the others have no signal and are excluded
    return_bt: NDArray[Any] | None = None  # float32: targets of the critic; None without one


class Critic(Protocol):
    """The training of the value head; the driver owns the head itself."""

    @property
    def coefficient(self) -> float:
        """The weight of the value loss beside the policy loss."""
        ...

    def loss(self, value_bt: Any, old_value_bt: Any, return_bt: Any, mask_bt: Any, tokens: float | None = None) -> Any:
        """Return the value loss, a scalar tensor: a mean over tokens.

        `old_value_bt`: values when the batch was rolled out; no gradient there. `tokens`: the divisor where these rows
        are a part of a step; None: the tokens in the mask.
        """
        ...


class Online(Protocol):
    """An algorithm with rollouts at each step; `advantages` turns their rewards into a signal."""

    @property
    def loss(self) -> Loss:
        """The policy loss."""
        ...

    @property
    def critic(self) -> Critic | None:
        """The critic; None: no value head is built, and `advantages` is called without values."""
        ...

    def advantages(self, batch: Batch, value_bt: NDArray[Any] | None = None) -> Signal:
        """Return the signal. `value_bt`: the critic's value of each token's state, shape (rows, tokens)."""
        ...


@dataclass(frozen=True, slots=True)
class Example:
    """A row of supervised training; the loss is on the completion only."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """A row of preference training: two completions of the same prompt."""

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]


class Offline(Protocol):
    """An algorithm with a fixed set of trajectories; `select` makes training rows of it."""

    @property
    def trainer(self) -> str:
        """The kind of trainer, `sft` (rows are Examples) or `dpo` (rows are Preferences)."""
        ...

    @property
    def rounds(self) -> int:
        """The number of rollout rounds; the algorithm's steps are divided among them."""
        ...

    @property
    def batch(self) -> int:
        """The number of rows per optimizer step."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The further fields of TRL's SFTConfig or DPOConfig."""
        ...

    def select(self, trajectories: Sequence[Trajectory], max_length: int) -> list[Example] | list[Preference]:
        """Return rows of at most `max_length` tokens, without duplicates.

        Their order does not depend on the order of arrival. Empty if no question has any difference in reward.
        """
        ...
