"""DPO on pairs of trajectories that the verifier ranks (Rafailov et al. 2023, arXiv 2305.18290)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat
from pydantic.dataclasses import dataclass as checked

from sia_runner.config.training import AlgorithmConfig
from sia_runner.errors import TrainingError
from sia_runner.records import Trajectory
from sia_runner.selection.algorithm_choice import by_question, reward_of
from sia_runner.training.algorithms.base import STRICT_OPTIONS, PreferencePair, read_options
from sia_runner.training.batch import call_length

KIND = "offline"


@checked(frozen=True, config=STRICT_OPTIONS)
class DpoOptions:
    """The options of DPO."""

    loss: Literal["sigmoid", "ipo"] = "sigmoid"  # ipo: Azar et al. 2023, bounded where preferences are certain
    margin: NonNegativeFloat = 0.0  # the chosen reward has to exceed the rejected one by more than this
    pairs: Annotated[int, Field(ge=1)] = 2  # at most, of one question
    rounds: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=1)] = 16  # pairs per optimizer step


@dataclass(frozen=True, slots=True)
class Dpo:
    """DPO on pairs of trajectories of one question."""

    margin: float
    pairs: int
    rounds: int
    batch: int
    settings: Mapping[str, Any]
    trainer: str = "dpo"

    def select(self, trajectories: Sequence[Trajectory], max_length: int) -> list[PreferencePair]:
        """Return preference pairs, each at the first call where two trajectories differ."""
        chosen: list[PreferencePair] = []
        for group in by_question(trajectories).values():
            forks = (preference_at_fork(better, worse, max_length) for better, worse in self._ranked(group))
            chosen += list(dict.fromkeys(pair for pair in forks if pair is not None))[: self.pairs]
        return list(dict.fromkeys(chosen))

    def _ranked(self, group: Sequence[Trajectory]) -> list[tuple[Trajectory, Trajectory]]:
        """Return pairs from the ends of the ranking inwards, so that few pairs already use many trajectories."""
        ranking = sorted(group, key=lambda trajectory: (-reward_of(trajectory), trajectory.sample))
        ends = [
            (i + j, i, better, worse) for i, better in enumerate(ranking) for j, worse in enumerate(reversed(ranking))
        ]
        apart = [end for end in ends if reward_of(end[2]) - reward_of(end[3]) > self.margin]
        return [(better, worse) for _, _, better, worse in sorted(apart, key=lambda end: end[:2])]


def preference_at_fork(better: Trajectory, worse: Trajectory, max_length: int) -> PreferencePair | None:
    """Return a preference at the first call where two trajectories differ: after it the prompts differ, too."""
    for call, other_call in zip(better.calls, worse.calls, strict=False):
        if call.prompt_ids != other_call.prompt_ids:
            return None
        if call.completion_ids != other_call.completion_ids:
            fits = max(call_length(call), call_length(other_call)) <= max_length
            answered = call.completion_ids and other_call.completion_ids
            return (
                PreferencePair(call.prompt_ids, call.completion_ids, other_call.completion_ids)
                if fits and answered
                else None
            )
    return None


def create(algorithm: AlgorithmConfig) -> Dpo:
    """Create the algorithm from its configuration; `kl_coefficient` is DPO's beta.

    Both are the weight of the KL to the base in the objective that DPO solves (equation 3). Raises TrainingError for
    wrong options.
    """
    options = read_options(DpoOptions, algorithm)
    if not algorithm.kl_coefficient:
        raise TrainingError("algorithm=dpo needs kl_coefficient above 0 (DPO's beta); given: 0")
    settings = {"beta": algorithm.kl_coefficient, "loss_type": [options.loss]}
    return Dpo(options.margin, options.pairs, options.rounds, options.batch, settings)
