"""Best-of-N behaviour cloning: supervised training on each question's best trajectories.

RAFT: Dong et al. 2023, arXiv 2304.06767.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from sia_runner.config.training import AlgorithmConfig
from sia_runner.errors import TrainingError
from sia_runner.records import Trajectory
from sia_runner.selection.algorithm_choice import by_question, reward_of
from sia_runner.training.algorithms.base import STRICT_OPTIONS, SupervisedExample, read_options
from sia_runner.training.batch import call_length

KIND = "offline"


@checked(frozen=True, config=STRICT_OPTIONS)
class BestOfNOptions:
    """The options of best-of-N."""

    keep: Annotated[int, Field(ge=1)] = 1  # at most so many trajectories of a question
    threshold: float | None = None  # reward from which one is good enough; absent: above its question's mean
    rounds: Annotated[int, Field(ge=1)] = 1
    batch: Annotated[int, Field(ge=1)] = 16  # rows per optimizer step


@dataclass(frozen=True, slots=True)
class BestOfN:
    """Best-of-N behaviour cloning."""

    keep: int
    threshold: float | None
    rounds: int
    batch: int
    trainer: str = "sft"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def select(self, trajectories: Sequence[Trajectory], max_length: int) -> list[SupervisedExample]:
        """Return every call of the chosen trajectories, as sampled."""
        chosen = [trajectory for group in by_question(trajectories).values() for trajectory in self._best(group)]
        calls = [
            call
            for trajectory in chosen
            for call in trajectory.calls
            if call.completion_ids and call_length(call) <= max_length
        ]
        return list(dict.fromkeys(SupervisedExample(call.prompt_ids, call.completion_ids) for call in calls))

    def _best(self, group: Sequence[Trajectory]) -> list[Trajectory]:
        """Return the best trajectories; ties go by sample number, since length would teach brevity, not success."""
        bar = fmean(map(reward_of, group)) if self.threshold is None else self.threshold
        good = [
            trajectory for trajectory in group if reward_of(trajectory) > bar or reward_of(trajectory) == self.threshold
        ]
        return sorted(good, key=lambda trajectory: (-reward_of(trajectory), trajectory.sample))[: self.keep]


def create(algorithm: AlgorithmConfig) -> BestOfN:
    """Create the algorithm from its configuration. Raises TrainingError for wrong options."""
    options = read_options(BestOfNOptions, algorithm)
    if algorithm.kl_coefficient:
        raise TrainingError(
            f"algorithm=best_of_n has no KL term: kl_coefficient has to be 0; given: {algorithm.kl_coefficient}"
        )
    return BestOfN(options.keep, options.threshold, options.rounds, options.batch)
