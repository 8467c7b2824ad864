"""Early stopping: the policy leaves the base, loses its entropy, drifts in length, or has nothing left to learn."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sia_runner.schema.training import Collapse


@dataclass(frozen=True, slots=True)
class Step:
    """The figures of one optimizer step."""

    reward: float  # mean over trajectories that have one
    kl: float  # nats per completion, to the base; where it is only watched, the last measurement (see stride)
    entropy: float  # nats per token
    zero_groups: float  # share of questions whose samples all got the same reward
    length: float  # mean completion, in tokens
    tokens: int  # completion tokens trained on


@dataclass(frozen=True, slots=True)
class Verdict:
    """A reason to stop. `harmful`: the weights of the last `window` steps must not be used."""

    reason: str
    harmful: bool


def stride(limits: Collapse, iterations: int) -> int:
    """Return N: the KL is measured on every Nth batch of rollouts, where it is only watched.

    Each batch has `iterations` steps. N leaves two measurements in every window that is longer than a batch.
    """
    return max(1, min(4, (limits.window - 1) // iterations))


def row_stride(rows: int) -> int:
    """Return N: the KL is measured on every Nth row, where it is only watched, since it costs a forward pass.

    At most every eighth row, and at least eight rows.
    """
    return max(1, min(8, rows // 8))


def verdict(steps: Sequence[Step], limits: Collapse) -> Verdict | None:
    """Return a verdict if the last `limits.window` steps agree that training has collapsed, else None.

    Agreement over a window is needed, because one batch of easy or hard questions proves nothing.
    """
    window = steps[-limits.window :]
    if len(window) < limits.window:
        return None
    for check in (_kl, _entropy, _length):
        reason = check(window, steps[0], limits)
        if reason:
            return Verdict(f"{reason} for {limits.window} steps", harmful=True)
    if _all(window, lambda step: step.zero_groups, limits.zero_groups, above=True):
        # Nothing left to learn is no damage: most often every sample is right.
        return Verdict(
            f"{window[-1].zero_groups:.0%} of the questions gave all their samples the same reward "
            f"(mean {window[-1].reward:.3g}) for {limits.window} steps",
            harmful=False,
        )
    return None


def _kl(window: Sequence[Step], first: Step, limits: Collapse) -> str:
    if not _all(window, lambda step: step.kl, limits.kl, above=True):
        return ""
    return f"KL to the base {window[-1].kl:.3g} nats per completion, limit {limits.kl:g},"


def _entropy(window: Sequence[Step], first: Step, limits: Collapse) -> str:
    if not _all(window, lambda step: step.entropy, limits.entropy, above=False):
        return ""
    return f"entropy {window[-1].entropy:.3g} nats per token, limit {limits.entropy:g},"


def _length(window: Sequence[Step], first: Step, limits: Collapse) -> str:
    """Check drift in either direction: an empty answer is as much a collapse as an endless one."""
    if not first.length > 0 or not _all(window, lambda step: _drift(step, first), limits.length, above=True):
        return ""
    current, initial = window[-1].length, first.length
    return f"completions of {current:.3g} tokens against {initial:.3g} at first, limit {limits.length:g} times,"


def _drift(step: Step, first: Step) -> float:
    """Return how many times longer, or shorter, completions are than at the first step; at least 1."""
    if math.isnan(step.length):
        return math.nan
    return max(step.length / first.length, first.length / max(step.length, 1e-9))


def _all(window: Sequence[Step], value: Callable[[Step], float], limit: float | None, *, above: bool) -> bool:
    """Return True if every step passes the limit; a step that was not measured does not."""
    if limit is None:
        return False
    return all(value(step) >= limit if above else value(step) <= limit for step in window)
