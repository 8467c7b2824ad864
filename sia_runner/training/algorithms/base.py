"""The interfaces of training algorithms, their options, and the registry.

An algorithm is a class that is built from its AlgorithmConfig: one of the registry, or ``module.Class`` of the user's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, ValidationError

from sia_runner.config.base import is_custom, load_class
from sia_runner.config.training import AlgorithmConfig
from sia_runner.errors import TrainingError
from sia_runner.records import Trajectory
from sia_runner.selection.algorithm_choice import FloatArray
from sia_runner.training.batch import BoolArray, RolloutBatch


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """The policy loss, in terms of TRL's GRPOConfig; its reference is the base."""

    loss_type: str
    epsilon: float  # the importance ratio is clipped to [1 - epsilon, 1 + epsilon_high]
    epsilon_high: float
    beta: float  # weight of the KL to the base
    importance_level: str  # token | sequence
    iterations: int  # optimizer steps on each batch of rollouts (num_iterations)


@dataclass(frozen=True, slots=True)
class TrainingSignal:
    """The training signal of each token of a batch; axes as in RolloutBatch, 0 on padding."""

    advantage_bt: NDArray[Any]  # float32
    used_b: BoolArray  # rows that belong to the step; the others have no signal and are excluded
    return_bt: NDArray[Any] | None = None  # float64: targets of the critic, as rewards; None without one

    def of_rows(self, rows: NDArray[np.intp]) -> "TrainingSignal":
        """Return the signal of some rows."""
        targets_bt = None if self.return_bt is None else self.return_bt[rows]
        return TrainingSignal(self.advantage_bt[rows], self.used_b[rows], targets_bt)


class Critic(Protocol):
    """The training of the value head, which the learner owns; its unit is that of RewardScale."""

    def weights(
        self, value_bt: FloatArray, old_value_bt: FloatArray, return_bt: FloatArray, mask_bt: BoolArray, tokens: int
    ) -> FloatArray:
        """Return the gradient of the value loss by the values, 0 outside the mask: shape (rows, tokens).

        `old_value_bt`: values at the rollouts; `tokens`: of the whole step, over which the loss is a mean.
        """
        ...


class OnlineAlgorithm(Protocol):
    """An algorithm with rollouts at each step; `advantages` turns their rewards into a signal."""

    loss: PolicyLoss
    critic: Critic | None  # None: no value head is built, and `advantages` is called without values

    def advantages(self, batch: RolloutBatch, value_bt: NDArray[Any] | None = None) -> TrainingSignal:
        """Return the signal. `value_bt`: the critic's values, as rewards, of the states before each token."""
        ...


@dataclass(frozen=True, slots=True)
class SupervisedExample:
    """A row of supervised training; the loss is on the completion only."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A row of preference training: two completions of the same prompt."""

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]


class OfflineAlgorithm(Protocol):
    """An algorithm with a fixed set of trajectories; `select` makes training rows of it."""

    trainer: str  # sft (SupervisedExample rows) or dpo (PreferencePair rows)
    rounds: int  # of rollouts; the algorithm's steps are divided among them
    batch: int  # rows per optimizer step
    epochs: int  # over the rows of a round, at most: then it ends before its share of the steps is taken
    settings: Mapping[str, Any]  # dpo: beta, and loss (sigmoid or ipo)

    def select(
        self, trajectories: Sequence[Trajectory], max_length: int
    ) -> list[SupervisedExample] | list[PreferencePair]:
        """Return rows of at most `max_length` tokens, without duplicates.

        Their order does not depend on the order of arrival. Empty if the rewards tell no better from a worse one.
        """
        ...


STRICT_OPTIONS = ConfigDict(extra="forbid", strict=True)  # strict: "3" is not a number
OptionsType = TypeVar("OptionsType")


@dataclass(frozen=True, slots=True)
class NoOptions:
    """The options of an algorithm that has none."""


def read_options(schema: type[OptionsType], algorithm: AlgorithmConfig) -> OptionsType:
    """Return `algorithm.options` as `schema`, a frozen pydantic dataclass. Raises TrainingError for wrong options."""
    name, options = algorithm.algorithm, algorithm.options
    allowed = [field.name for field in fields(schema)]  # pyright: ignore[reportArgumentType]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        remedy = f"allowed: {', '.join(allowed)}" if allowed else "it has none"
        raise TrainingError(f"algorithm={name} has no option {unknown[0]!r}; {remedy}")
    try:
        return schema(**options)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        message = f"option {where} of algorithm={name}: {fault['msg']}; given: {fault['input']!r}"
        raise TrainingError(message) from error


def policy_loss(
    algorithm: AlgorithmConfig,
    loss_type: str = "dapo",
    importance_level: str = "token",
    iterations: int = 1,
    epsilon_high: float | None = None,
) -> PolicyLoss:
    """Return the clipped policy loss.

    The default, DAPO's, divides by the tokens of the whole step, so that long completions are not favoured.
    """
    clip = algorithm.clip
    assert clip is not None  # noqa: S101 - checked by the schema: online
    return PolicyLoss(loss_type, clip, epsilon_high or clip, algorithm.kl_coefficient, importance_level, iterations)


def compare_within_groups(
    batch: RolloutBatch, within: Callable[[FloatArray], FloatArray], min_size: int = 2
) -> tuple[FloatArray, BoolArray]:
    """Apply `within` (rewards of one group -> advantages) to groups of `min_size` or more whose rewards differ.

    Returns advantages, shape (trajectories,), exactly 0 in the other groups, and which trajectories have a signal.
    """
    advantage_n = np.zeros_like(batch.reward_n)
    signal_n = np.zeros(len(batch.reward_n), dtype=np.bool_)
    for group in batch.groups():
        reward_g = batch.reward_n[group]
        if len(group) >= min_size and np.ptp(reward_g) > 0:
            advantage_n[group] = within(reward_g)
            signal_n[group] = True
    return advantage_n, signal_n


ALGORITHMS = {  # kind, and class in this package
    "ppo": ("online", "ppo.Ppo"),
    "grpo": ("online", "group_based.Grpo"),
    "entropic": ("online", "group_based.Entropic"),
    "reinforce": ("online", "group_based.Reinforce"),
    "best_of_n": ("offline", "selections.BestOfN"),
    "dpo": ("offline", "selections.Dpo"),
}


def custom_algorithm_class(algorithm: AlgorithmConfig) -> Any:
    """Return the user's own class that `algorithm` names. Raises ComponentError if the driver cannot use it."""
    return load_class(algorithm.algorithm, OnlineAlgorithm if algorithm.kind == "online" else OfflineAlgorithm)


def online_algorithm(algorithm: AlgorithmConfig) -> OnlineAlgorithm:
    """Return the algorithm for the online driver. Raises TrainingError if it is offline, or its options are wrong."""
    return _create_algorithm(algorithm, "online")


def offline_algorithm(algorithm: AlgorithmConfig) -> OfflineAlgorithm:
    """Return the algorithm for the offline driver. Raises TrainingError if it is online, or its options are wrong."""
    return _create_algorithm(algorithm, "offline")


def _create_algorithm(algorithm: AlgorithmConfig, driver: str) -> Any:
    if is_custom(algorithm.algorithm):
        return custom_algorithm_class(algorithm)(algorithm)
    kind, target = ALGORITHMS[algorithm.algorithm]
    if kind != driver:
        raise TrainingError(f"algorithm={algorithm.algorithm} is {kind}; given: kind={driver}")
    return load_class(f"{__package__}.{target}")(algorithm)
