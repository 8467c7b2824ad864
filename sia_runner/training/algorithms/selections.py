"""Offline algorithms, which select training rows from trajectories: best-of-N and DPO."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat
from pydantic.dataclasses import dataclass as checked

from sia_runner.config.training import AlgorithmConfig
from sia_runner.errors import TrainingError
from sia_runner.records import SampledCall, Trajectory
from sia_runner.selection.algorithm_choice import by_question, reward_of
from sia_runner.training.algorithms.base import STRICT_OPTIONS, PreferencePair, SupervisedExample, read_options
from sia_runner.training.batch import call_length


@checked(frozen=True, config=STRICT_OPTIONS)
class BestOfNOptions:
    """The options of best-of-N."""

    keep: Annotated[int, Field(ge=1)] = 1  # at most so many trajectories of a question
    threshold: float | None = None  # reward from which one is good enough; absent: above the lowest of all questions
    rounds: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=1)] = 16  # rows per optimizer step
    epochs: Annotated[int, Field(ge=1)] = 2  # at most, over the rows of a round


class BestOfN:
    """Best-of-N behaviour cloning on each question's best trajectories (RAFT: Dong et al. 2023, arXiv 2304.06767).

    Questions that every sample got right are cloned too: they hold what the policy can do already.
    """

    trainer = "sft"
    settings: Mapping[str, Any] = {}

    def __init__(self, algorithm: AlgorithmConfig) -> None:
        """Read the options. Raises TrainingError for wrong ones."""
        self._options = read_options(BestOfNOptions, algorithm)
        self.rounds, self.batch, self.epochs = self._options.rounds, self._options.batch, self._options.epochs
        if algorithm.kl_coefficient:
            raise TrainingError(
                f"algorithm=best_of_n has no KL term: kl_coefficient has to be 0; given: {algorithm.kl_coefficient}"
            )

    def select(self, trajectories: Sequence[Trajectory], max_length: int) -> list[SupervisedExample]:
        """Return every call of the chosen trajectories, as sampled."""
        groups = by_question(trajectories).values()
        lowest = min((reward_of(trajectory) for group in groups for trajectory in group), default=0.0)
        chosen = [trajectory for group in groups for trajectory in self._best(group, lowest)]
        calls = [call for trajectory in chosen for call in trajectory.calls if call.completion_ids]
        rows = [SupervisedExample(call.prompt_ids, call.completion_ids) for call in calls if _fits(max_length, call)]
        return list(dict.fromkeys(rows))

    def _best(self, group: Sequence[Trajectory], lowest: float) -> list[Trajectory]:
        """Return the best trajectories; ties go by sample number, since length would teach brevity, not success."""
        threshold = self._options.threshold
        if threshold is None:
            good = [trajectory for trajectory in group if reward_of(trajectory) > lowest]
        else:
            good = [trajectory for trajectory in group if reward_of(trajectory) >= threshold]
        return sorted(good, key=lambda trajectory: (-reward_of(trajectory), trajectory.sample))[: self._options.keep]


@checked(frozen=True, config=STRICT_OPTIONS)
class DpoOptions:
    """The options of DPO."""

    loss: Literal["sigmoid", "ipo"] = "sigmoid"  # ipo: Azar et al. 2023, bounded where preferences are certain
    margin: NonNegativeFloat = 0.0  # the chosen reward has to exceed the rejected one by more than this
    pairs: Annotated[int, Field(ge=1)] = 2  # at most, of one question
    rounds: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=1)] = 16  # pairs per optimizer step
    epochs: Annotated[int, Field(ge=1)] = 2  # at most, over the pairs of a round


class Dpo:
    """DPO on pairs of trajectories that the verifier ranks (Rafailov et al. 2023, arXiv 2305.18290)."""

    trainer = "dpo"

    def __init__(self, algorithm: AlgorithmConfig) -> None:
        """Read the options. Raises TrainingError for wrong ones.

        `kl_coefficient` is DPO's beta: both are the weight of the KL to the base (equation 3).
        """
        self._options = read_options(DpoOptions, algorithm)
        self.rounds, self.batch, self.epochs = self._options.rounds, self._options.batch, self._options.epochs
        if not algorithm.kl_coefficient:
            raise TrainingError("algorithm=dpo needs kl_coefficient above 0 (DPO's beta); given: 0")
        self.settings = {"beta": algorithm.kl_coefficient, "loss": self._options.loss}

    def select(self, trajectories: Sequence[Trajectory], max_length: int) -> list[PreferencePair]:
        """Return preference pairs, each at the first call where two trajectories differ."""
        chosen: list[PreferencePair] = []
        for group in by_question(trajectories).values():
            forks = (_preference_at_fork(better, worse, max_length) for better, worse in self._ranked(group))
            chosen += list(dict.fromkeys(pair for pair in forks if pair is not None))[: self._options.pairs]
        return list(dict.fromkeys(chosen))

    def _ranked(self, group: Sequence[Trajectory]) -> list[tuple[Trajectory, Trajectory]]:
        """Return pairs from the ends of the ranking inwards, so that few pairs already use many trajectories."""
        ranking = sorted(group, key=lambda trajectory: (-reward_of(trajectory), trajectory.sample))
        ends = [
            (i + j, i, better, worse) for i, better in enumerate(ranking) for j, worse in enumerate(reversed(ranking))
        ]
        apart = [end for end in ends if reward_of(end[2]) - reward_of(end[3]) > self._options.margin]
        return [(better, worse) for _, _, better, worse in sorted(apart, key=lambda end: end[:2])]


def _preference_at_fork(better: Trajectory, worse: Trajectory, max_length: int) -> PreferencePair | None:
    """Return a preference at the first call where two trajectories differ: after it the prompts differ, too."""
    for call, other in zip(better.calls, worse.calls, strict=False):
        if call.prompt_ids != other.prompt_ids:
            return None
        if call.completion_ids != other.completion_ids:
            usable = call.completion_ids and other.completion_ids and _fits(max_length, call, other)
            return PreferencePair(call.prompt_ids, call.completion_ids, other.completion_ids) if usable else None
    return None


def _fits(max_length: int, *calls: SampledCall) -> bool:
    return all(call_length(call) <= max_length for call in calls)
