"""The rules that choose an algorithm by the shape of the rewards; the default where the proposer does not choose."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sia_runner.training.protocol import TrainingError
from sia_runner.training.shape import Shape

_COMPARE: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, ">": operator.gt}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: `algorithm` if every condition (field of Shape, comparison, threshold) holds."""

    algorithm: str
    name: str
    conditions: tuple[tuple[str, str, float], ...]

    def holds(self, shape: Shape) -> bool:
        """Return True if every condition holds."""
        return all(_COMPARE[sign](getattr(shape, field), bound) for field, sign, bound in self.conditions)

    def reason(self, shape: Shape) -> str:
        """Return the rule's name with the measured numbers."""
        numbers = [f"{field} {getattr(shape, field):.3g} {sign} {bound:g}" for field, sign, bound in self.conditions]
        return f"{self.name} ({', '.join(numbers) or 'no other rule holds'}): {self.algorithm}"


# The first rule that holds decides. Order: first the shapes that make the other figures meaningless or unusable, then
# special cases, then plain ones. For 0/1 rewards, a threshold is where the meaning of the figure changes.
RULES = (
    # Each group has the same mean whatever the policy does: rewards are places in a ranking, or wins of a comparison.
    # Eight groups of 0/1 rewards have the same number of winners by chance in less than 0.4% of cases.
    Rule(
        "dpo",
        "the verifier only ranks",
        (("groups", ">=", 8), ("variance", ">", 0), ("between_share", "<=", 1e-9)),
    ),
    # With 5% successes a group of 8 has one in 34% of cases: comparing within groups would waste two rollouts of three.
    Rule("best_of_n", "nearly every reward is zero", (("zero_share", ">=", 0.95),)),
    # A 0/1 reward with 20% successes has skew 1.5; so has a heavy upper tail of graded rewards.
    Rule("entropic", "rewards are rare and right-skewed", (("skew", ">=", 1.5),)),
    # Little is left to gain, and much to lose: stay near the base. Meaningful for rewards within [0, 1] only.
    Rule(
        "reinforce",
        "the base is nearly capable, regression is the risk",
        (("mean", ">=", 0.8), ("lowest", ">=", 0), ("highest", "<=", 1)),
    ),
    # Enough levels for a value head to learn from.
    Rule("ppo", "rewards are dense scalars", (("distinct", ">=", 5), ("graded_share", ">=", 0.5))),
    # One reward for three decisions or more: credit assignment to single calls is needed.
    Rule("ppo", "several steps share a reward", (("calls", ">=", 3),)),
    # A minute a rollout: 40 steps of 128 rollouts stay below four days of sandbox time.
    Rule("grpo", "rollouts are cheap and the verifier is terminal", (("seconds", "<=", 60),)),
    # Rollouts are too expensive for new ones at each step: an offline set is rolled out once, and its ranking suffices.
    Rule("dpo", "rollouts are expensive", ()),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The algorithm that a rule gives."""

    algorithm: str
    rule: str  # name of the rule
    reason: str  # one line with the measured numbers

    def as_json(self) -> dict[str, Any]:
        """Return the choice as plain data."""
        return asdict(self)


def choose(shape: Shape, rules: Sequence[Rule] = RULES) -> Choice:
    """Return the algorithm for rewards of this shape.

    Raises TrainingError if nothing was measured, or no rule holds.
    """
    if shape.n == 0:
        raise TrainingError(f"no rollout has a reward ({shape.failed} failed): no algorithm can be chosen")
    for rule in rules:
        if rule.holds(shape):
            return Choice(rule.algorithm, rule.name, rule.reason(shape))
    allowed = ", ".join(dict.fromkeys(rule.algorithm for rule in rules)) or "none"
    raise TrainingError(f"no rule gives one of the algorithms that may be chosen ({allowed})")


def impossible(shape: Shape) -> str:
    """Return why rollouts of this shape can train nothing, whatever the algorithm; empty if they can."""
    if shape.n == 0:
        return f"no rollout has a reward ({shape.failed} failed)"
    if shape.calls == 0:
        return "no model call of the harness names its question, so no call can be given a reward"
    return ""


def nothing_to_gain(shape: Shape) -> str:
    """Return why rewards of this shape show no algorithm a direction; empty if they do.

    Rewards that are all zero are left to the rules: more samples may find the first success.
    """
    if shape.equal_groups == 1 and shape.zero_share < 1:
        return (
            f"in each of {shape.groups} groups all rewards are equal (mean {shape.mean:.3g}), "
            "so nothing tells a better answer from a worse one"
        )
    return ""


def suits(algorithm: str) -> str:
    """Return the purposes of an algorithm, in the words of the rules."""
    return "; ".join(rule.name for rule in RULES if rule.algorithm == algorithm)


def unaffordable(cost: Mapping[str, float | None], remaining: Mapping[str, float | None]) -> str:
    """Return why an update of this cost exceeds the budget; empty if it fits.

    `cost` and `remaining` are by unit; None: unknown cost, or no limit.
    """
    for resource, amount in cost.items():
        limit = remaining.get(resource)
        if amount is not None and limit is not None and amount > limit:
            return f"an update is estimated to take {amount:,.4g} {resource}, and {limit:,.4g} are left"
    return ""
