"""The choice of a training algorithm by the shape of the rewards; the default where the proposer does not choose."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from sia_runner.errors import TrainingError
from sia_runner.records import Json, OutcomeKind, Trajectory

FloatArray = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class RewardShape:
    """Statistics of trajectories that have a reward; shares are of trajectories unless said otherwise.

    A question's trajectories are a group. Variance, skew and between_share are 0 where all rewards are equal. What the
    rules look at does not depend on the unit of the rewards, nor on a single outlier: `distinct`, `skew`,
    `between_share` and the shares of lowest, highest and graded rewards are of rewards within bounds (see `_bounded`).
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
    lowest_share: float  # as low as any; where all are equal: 1 if every trajectory failed, else 0
    highest_share: float  # as high as any; where all are equal: 0 if every trajectory failed, else 1
    graded_share: float  # neither the lowest nor the highest reward
    zero_groups: float  # share of groups in which every reward is zero
    equal_groups: float  # share of groups without any difference in reward: no signal for a comparison
    between_share: float  # share of the variance that lies between the groups' means; 0 where rewards only rank
    calls: float  # model calls per trajectory, mean: steps per reward
    tokens: float  # prompt and completion tokens per trajectory, mean over its calls' sum
    seconds: float  # wall time per trajectory

    @staticmethod
    def from_json(data: Json) -> "RewardShape":
        """Return the shape that `asdict` made plain data, also by a version that knew rewards of 0 and 1 only."""
        earlier = {"lowest_share": data["zero_share"], "highest_share": data["one_share"]}
        return RewardShape(**{**earlier, **data})


def measure_shape(trajectories: Sequence[Trajectory], seconds: float) -> RewardShape:
    """Return the shape of `trajectories`, collected in `seconds` of wall time; all zeros if none has a reward."""
    rewarded = rewarded_trajectories(trajectories)
    if not rewarded:
        return RewardShape(0, len(trajectories), *[0] * 19)
    reward_n = np.array([reward_of(trajectory) for trajectory in rewarded], dtype=np.float64)
    bounded_n = _bounded(reward_n)
    of_question = np.unique([trajectory.unit for trajectory in rewarded], return_inverse=True)[1]
    questions = [of_question == question for question in range(int(of_question.max()) + 1)]
    lowest_n, highest_n = bounded_n == bounded_n.min(), bounded_n == bounded_n.max()
    variance = skew = between_share = 0.0  # exactly, if all rewards are equal, which rounding would hide
    if np.ptp(reward_n):
        variance = float(reward_n.var())
        centred_n = bounded_n - bounded_n.mean()
        spread = float((centred_n**2).mean())
        skew = float((centred_n**3).mean() / spread**1.5)
        # eta squared: the variance of the group means, weighted by size, over the variance of all rewards
        between = sum(question.sum() * centred_n[question].mean() ** 2 for question in questions) / len(rewarded)
        between_share = float(between / spread)
    elif _all_failed(rewarded):
        highest_n = ~lowest_n
    else:
        lowest_n = ~highest_n
    tokens_n = [
        sum(len(call.prompt_ids) + len(call.completion_ids) for call in trajectory.calls) for trajectory in rewarded
    ]
    return RewardShape(
        n=len(rewarded),
        failed=len(trajectories) - len(rewarded),
        groups=len(questions),
        samples=len(rewarded) / len(questions),
        mean=float(reward_n.mean()),
        variance=variance,
        skew=skew,
        lowest=float(reward_n.min()),
        highest=float(reward_n.max()),
        distinct=len(np.unique(bounded_n)),
        zero_share=float((reward_n == 0).mean()),
        one_share=float((reward_n == 1).mean()),
        lowest_share=float(lowest_n.mean()),
        highest_share=float(highest_n.mean()),
        graded_share=float((~(lowest_n | highest_n)).mean()),
        zero_groups=float(np.mean([not reward_n[question].any() for question in questions])),
        equal_groups=float(np.mean([np.ptp(reward_n[question]) == 0 for question in questions])),
        between_share=between_share,
        calls=float(np.mean([len(trajectory.calls) for trajectory in rewarded])),
        tokens=float(np.mean(tokens_n)),
        seconds=seconds / len(trajectories),
    )


_FEWEST_TO_BOUND = 16  # rewards: of fewer a single one is a sizeable share


def _bounded(reward_n: FloatArray) -> FloatArray:
    """Return the rewards with the lowest and the highest moved to those next to them, so that no single one decides.

    Where all others are the same, a reward that differs is the shape itself: then only the farther of two moves.
    """
    if len(reward_n) < _FEWEST_TO_BOUND:
        return reward_n
    first, low, *_, high, last = np.sort(reward_n)
    if low == high:
        below, above = low - first, last - high
        low = first if above == 0 or 0 < below <= above else low
        high = last if below == 0 or 0 < above <= below else high
    return reward_n.clip(low, high)


def _all_failed(trajectories: Sequence[Trajectory]) -> bool:
    """Return True if no trajectory earned anything; a verifier may give 0, or any other number, for that."""
    earned = {trajectory.kind for trajectory in trajectories if trajectory.reward}
    return OutcomeKind.PARTIAL not in earned and all(one.kind is not OutcomeKind.CORRECT for one in trajectories)


def rewarded_trajectories(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Return trajectories with a reward, ordered by (unit, sample). Raises TrainingError if one is not finite."""
    rewarded = [trajectory for trajectory in trajectories if trajectory.reward is not None]
    for trajectory in rewarded:
        if not math.isfinite(reward_of(trajectory)):
            where = f"question {trajectory.unit}, sample {trajectory.sample}"
            raise TrainingError(f"the reward of {where} is {trajectory.reward}: not finite")
    return sorted(rewarded, key=lambda trajectory: (trajectory.unit, trajectory.sample))


def by_question(trajectories: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    """Return trajectories that have a reward, by question, both in order."""
    grouped = groupby(rewarded_trajectories(trajectories), operator.attrgetter("unit"))
    return {unit: list(group) for unit, group in grouped}


def reward_of(trajectory: Trajectory) -> float:
    """Return the reward of a trajectory that has one. Raises ValueError."""
    if trajectory.reward is None:
        raise ValueError(f"question {trajectory.unit}, sample {trajectory.sample} has no reward")
    return trajectory.reward


_COMPARISONS: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, ">": operator.gt}


@dataclass(frozen=True, slots=True)
class AlgorithmRule:
    """A rule: `algorithm` if every condition (field of RewardShape, comparison, threshold) holds."""

    algorithm: str
    name: str
    conditions: tuple[tuple[str, str, float], ...]

    def holds(self, shape: RewardShape) -> bool:
        """Return True if every condition holds."""
        return all(_COMPARISONS[sign](getattr(shape, field), bound) for field, sign, bound in self.conditions)


# The first rule that holds decides. Order: first the shapes that make the other figures meaningless or unusable, then
# special cases, then plain ones. No condition depends on the unit of the rewards: -1/1, percent, and negated errors are
# chosen for as 0/1 is.
ALGORITHM_RULES = (
    # Each group has the same mean whatever the policy does: rewards are places in a ranking, or wins of a comparison.
    # Eight groups of 0/1 rewards have the same number of winners by chance in less than 0.4% of cases.
    AlgorithmRule(
        "dpo", "the verifier only ranks", (("groups", ">=", 8), ("variance", ">", 0), ("between_share", "<=", 1e-6))
    ),
    # With 5% successes a group of 8 has one in 34% of cases: comparing within groups would waste two rollouts of three.
    AlgorithmRule("best_of_n", "nearly every reward is the lowest", (("lowest_share", ">=", 0.95),)),
    # A heavy upper tail. Of two values the higher one has no tail: there entropic is GRPO in another unit.
    AlgorithmRule("entropic", "rewards are rare and right-skewed", (("skew", ">=", 1.5), ("distinct", ">=", 3))),
    # Little is left to gain, and much to lose: stay near the base.
    AlgorithmRule("reinforce", "the base is nearly capable, regression is the risk", (("highest_share", ">=", 0.8),)),
    # Enough levels for a value head to learn from.
    AlgorithmRule("ppo", "rewards are dense scalars", (("distinct", ">=", 5), ("graded_share", ">=", 0.5))),
    # One reward for three decisions or more: credit assignment to single calls is needed.
    AlgorithmRule("ppo", "several steps share a reward", (("calls", ">=", 3),)),
    # A minute a rollout: 40 steps of 128 rollouts stay below four days of sandbox time.
    AlgorithmRule("grpo", "rollouts are cheap and the verifier is terminal", (("seconds", "<=", 60),)),
    # Rollouts are too expensive for new ones at each step: an offline set is rolled out once, and its ranking suffices.
    AlgorithmRule("dpo", "rollouts are expensive", ()),
)


@dataclass(frozen=True, slots=True)
class AlgorithmChoice:
    """The algorithm that a rule gives."""

    algorithm: str
    rule: str  # name of the rule
    reason: str  # one line with the measured numbers


def choose_algorithm(shape: RewardShape, rules: Sequence[AlgorithmRule] = ALGORITHM_RULES) -> AlgorithmChoice:
    """Return the algorithm for this shape. Raises TrainingError if nothing was measured, or no rule holds."""
    if shape.n == 0:
        raise TrainingError(f"no rollout has a reward ({shape.failed} failed): no algorithm can be chosen")
    rule = next((rule for rule in rules if rule.holds(shape)), None)
    if rule is None:
        allowed = ", ".join(dict.fromkeys(rule.algorithm for rule in rules)) or "none"
        raise TrainingError(f"no rule gives one of the algorithms that may be chosen ({allowed})")
    figures = [f"{field} {getattr(shape, field):.3g} {sign} {bound:g}" for field, sign, bound in rule.conditions]
    reason = f"{rule.name} ({', '.join(figures) or 'no other rule holds'}): {rule.algorithm}"
    return AlgorithmChoice(rule.algorithm, rule.name, reason)


def why_untrainable(shape: RewardShape) -> str:
    """Return why rollouts of this shape can train nothing, whatever the algorithm; empty if they can."""
    if shape.n == 0:
        return f"no rollout has a reward ({shape.failed} failed)"
    if shape.calls == 0:
        return "no model call of the harness names its question, so no call can be given a reward"
    return ""


def why_no_signal(shape: RewardShape) -> str:
    """Return why rewards of this shape show no algorithm a direction; empty if they do."""
    if shape.equal_groups < 1 or shape.lowest_share == 1:  # where every answer failed, more samples may find another
        return ""
    equal = f"in each of {shape.groups} groups all rewards are equal (mean {shape.mean:.3g})"
    return f"{equal}, so nothing tells a better answer from a worse one"


def algorithm_purpose(algorithm: str) -> str:
    """Return the purposes of an algorithm, in the words of the rules."""
    return "; ".join(rule.name for rule in ALGORITHM_RULES if rule.algorithm == algorithm)


def why_unaffordable(cost: Mapping[str, float | None], remaining: Mapping[str, float | None]) -> str:
    """Return why an update exceeds the budget; empty if it fits. Both are by unit; None: unknown cost, or no limit."""
    for resource, amount in cost.items():
        limit = remaining.get(resource)
        if amount is not None and limit is not None and amount > limit:
            return f"an update is estimated to take {amount:,.4g} {resource}, and {limit:,.4g} are left"
    return ""
