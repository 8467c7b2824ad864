"""The shape of rewards: statistics of rollouts that tell which algorithm suits."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sia_runner.records import Trajectory
from sia_runner.training.protocol import TrainingError

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Shape:
    """Statistics of trajectories that have a reward; shares are of trajectories unless said otherwise.

    A question's trajectories are a group. Moments are those of the sample itself (no correction): with all rewards
    equal, variance, skew and between_share are 0.
    """

    n: int
    failed: int  # trajectories without a reward: infrastructure failures
    groups: int
    samples: float  # trajectories per group, mean
    mean: float
    variance: float
    skew: float  # third standardised moment: positive where few rewards are far above the rest
    lowest: float
    highest: float
    distinct: int  # different reward values
    zero_share: float
    one_share: float
    graded_share: float  # neither the lowest nor the highest reward
    zero_groups: float  # share of groups in which every reward is zero
    equal_groups: float  # share of groups without any difference in reward: no signal for a comparison
    between_share: float  # share of the variance that lies between the groups' means; 0 where rewards only rank
    calls: float  # model calls per trajectory, mean: steps per reward
    tokens: float  # prompt and completion tokens per trajectory, mean over its calls' sum
    seconds: float  # wall time per trajectory

    def as_json(self) -> dict[str, Any]:
        """Return the statistics as plain data."""
        return asdict(self)


def measure(trajectories: Sequence[Trajectory], seconds: float) -> Shape:
    """Return the shape of `trajectories`, collected in `seconds` of wall time; all zeros if none has a reward."""
    rewarded = scored(trajectories)
    if not rewarded:
        return Shape(0, len(trajectories), *[0] * 17)
    reward_n = np.array([reward_of(trajectory) for trajectory in rewarded], dtype=np.float64)
    groups = [np.array([reward_of(trajectory) for trajectory in group]) for group in by_question(rewarded).values()]
    variance, skew = _moments(reward_n)
    lowest, highest = float(reward_n.min()), float(reward_n.max())
    return Shape(
        n=len(rewarded),
        failed=len(trajectories) - len(rewarded),
        groups=len(groups),
        samples=len(rewarded) / len(groups),
        mean=float(reward_n.mean()),
        variance=variance,
        skew=skew,
        lowest=lowest,
        highest=highest,
        distinct=len(np.unique(reward_n)),
        zero_share=float((reward_n == 0).mean()),
        one_share=float((reward_n == 1).mean()),
        graded_share=float(((reward_n > lowest) & (reward_n < highest)).mean()),
        zero_groups=float(np.mean([not group.any() for group in groups])),
        equal_groups=float(np.mean([np.ptp(group) == 0 for group in groups])),
        between_share=_between(groups, variance),
        calls=float(np.mean([len(trajectory.calls) for trajectory in rewarded])),
        tokens=float(np.mean([_tokens(trajectory) for trajectory in rewarded])),
        seconds=seconds / len(trajectories),
    )


def _moments(reward_n: Floats) -> tuple[float, float]:
    """Return variance and skew; exactly 0 if all rewards are equal, which rounding would hide."""
    if np.ptp(reward_n) == 0:
        return 0.0, 0.0
    centred_n = reward_n - reward_n.mean()
    variance = float((centred_n**2).mean())
    return variance, float((centred_n**3).mean() / variance**1.5)


def _between(groups: Sequence[Floats], variance: float) -> float:
    """Return eta squared: the variance of the group means, weighted by size, over the variance of all rewards."""
    if variance == 0:
        return 0.0
    size_g = np.array([len(group) for group in groups])
    mean_g = np.array([group.mean() for group in groups])
    overall = np.average(mean_g, weights=size_g)
    return float(np.average((mean_g - overall) ** 2, weights=size_g) / variance)


def _tokens(trajectory: Trajectory) -> int:
    return sum(len(call.prompt_ids) + len(call.completion_ids) for call in trajectory.calls)


def scored(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Return trajectories that have a reward, ordered by (unit, sample).

    Raises TrainingError for a reward that is not finite.
    """
    rewarded = [trajectory for trajectory in trajectories if trajectory.reward is not None]
    for trajectory in rewarded:
        if not math.isfinite(reward_of(trajectory)):
            raise TrainingError(
                f"the reward of question {trajectory.unit}, sample {trajectory.sample} is {trajectory.reward}: "
                "not finite"
            )
    return sorted(rewarded, key=lambda trajectory: (trajectory.unit, trajectory.sample))


def by_question(trajectories: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    """Return trajectories that have a reward, by question, both in order."""
    questions: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in scored(trajectories):
        questions[trajectory.unit].append(trajectory)
    return dict(questions)


def reward_of(trajectory: Trajectory) -> float:
    """Return the reward of a trajectory that has one. Raises ValueError."""
    if trajectory.reward is None:
        raise ValueError(f"question {trajectory.unit}, sample {trajectory.sample} has no reward")
    return trajectory.reward
