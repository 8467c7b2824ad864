"""Best-of-N behaviour cloning: supervised training on each question's best trajectories.

RAFT: Dong et al. 2023, arXiv 2304.06767.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from sia_runner.records import Trajectory
from sia_runner.schema.training import Algorithm
from sia_runner.training.algorithms.options import STRICT, read
from sia_runner.training.algorithms.protocol import Example
from sia_runner.training.batch import length
from sia_runner.training.protocol import TrainingError
from sia_runner.training.shape import by_question, reward_of

KIND = "offline"


@checked(frozen=True, config=STRICT)
class Options:
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

    def select(self, trajectories: Sequence[Trajectory], max_length: int) -> list[Example]:
        """Return every call of the chosen trajectories, as sampled."""
        chosen = [trajectory for group in by_question(trajectories).values() for trajectory in self._best(group)]
        calls = [
            call
            for trajectory in chosen
            for call in trajectory.calls
            if call.completion_ids and length(call) <= max_length
        ]
        return list(dict.fromkeys(Example(call.prompt_ids, call.completion_ids) for call in calls))

    def _best(self, group: Sequence[Trajectory]) -> list[Trajectory]:
        """Return the best trajectories.

        Ties are broken by sample number, since length would teach brevity, not success.
        """
        bar = fmean(map(reward_of, group)) if self.threshold is None else self.threshold
        good = [
            trajectory for trajectory in group if reward_of(trajectory) > bar or reward_of(trajectory) == self.threshold
        ]
        return sorted(good, key=lambda trajectory: (-reward_of(trajectory), trajectory.sample))[: self.keep]


def create(algorithm: Algorithm) -> BestOfN:
    """Create the algorithm from its configuration. Raises TrainingError for wrong options."""
    options = read(Options, algorithm)
    if algorithm.kl:
        raise TrainingError(f"algorithm=best_of_n has no KL term: kl has to be 0; given: {algorithm.kl}")
    return BestOfN(options.keep, options.threshold, options.rounds, options.batch)
