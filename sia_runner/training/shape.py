"""The shape of rewards: what rollouts say about which algorithm suits."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sia_runner.records import Trajectory
from sia_runner.training.batch import Floats, by_question, reward_of, scored


@dataclass(frozen=True, slots=True)
class Shape:
    """Statistics of trajectories that have a reward. Shares are of trajectories where nothing else is said.

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
        return asdict(self)


def measure(trajectories: Sequence[Trajectory], seconds: float) -> Shape:
    """The shape of `trajectories`, made in `seconds` of wall time. All zeros where none has a reward."""
    kept = scored(trajectories)
    if not kept:
        return Shape(0, len(trajectories), *[0] * 17)
    reward_n = np.array([reward_of(one) for one in kept], dtype=np.float64)
    groups = [np.array([reward_of(one) for one in group]) for group in by_question(kept).values()]
    variance, skew = _moments(reward_n)
    lowest, highest = float(reward_n.min()), float(reward_n.max())
    return Shape(
        n=len(kept),
        failed=len(trajectories) - len(kept),
        groups=len(groups),
        samples=len(kept) / len(groups),
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
        calls=float(np.mean([len(one.calls) for one in kept])),
        tokens=float(np.mean([_tokens(one) for one in kept])),
        seconds=seconds / len(trajectories),
    )


def _moments(reward_n: Floats) -> tuple[float, float]:
    """Variance and skew; exactly 0 where all rewards are equal, which rounding would hide."""
    if np.ptp(reward_n) == 0:
        return 0.0, 0.0
    centred_n = reward_n - reward_n.mean()
    variance = float((centred_n**2).mean())
    return variance, float((centred_n**3).mean() / variance**1.5)


def _between(groups: Sequence[Floats], variance: float) -> float:
    """Eta squared: variance of the groups' means, weighted by their sizes, over the variance of all rewards."""
    if variance == 0:
        return 0.0
    size_g = np.array([len(group) for group in groups])
    mean_g = np.array([group.mean() for group in groups])
    overall = np.average(mean_g, weights=size_g)
    return float(np.average((mean_g - overall) ** 2, weights=size_g) / variance)


def _tokens(one: Trajectory) -> int:
    return sum(len(call.prompt_ids) + len(call.completion_ids) for call in one.calls)
