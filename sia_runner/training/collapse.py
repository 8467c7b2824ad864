"""When training stops early: it leaves the base, loses its entropy, drifts in length, or has nothing left to learn."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sia_runner.schema.training import Collapse


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer step was like."""

    reward: float  # mean over trajectories that have one
    kl: float  # nats per completion, to the base; where it is only watched, as measured last (see stride)
    entropy: float  # nats per token
    zero_groups: float  # share of questions whose samples all got the same reward
    length: float  # mean completion, in tokens
    tokens: int  # completion tokens trained on


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why to stop. `harmful`: the weights of the last `window` steps are not to be kept."""

    reason: str
    harmful: bool


def stride(limits: Collapse, iterations: int) -> int:
    """Of how many batches of rollouts, each of `iterations` steps, one has its KL measured where that is only watched:
    as few as leave two different measurements in every window that is longer than a batch."""
    return max(1, min(4, (limits.window - 1) // iterations))


def row_stride(rows: int) -> int:
    """Of how many rows one is measured where the KL is only watched, since each costs a forward pass: of eight at
    most, and so that at least eight are."""
    return max(1, min(8, rows // 8))


def verdict(steps: Sequence[Step], limits: Collapse) -> Verdict | None:
    """Whether the last `limits.window` steps agree that training has collapsed.

    Agreement over a window, because one batch of easy or of hard questions proves nothing."""
    window = steps[-limits.window :]
    if len(window) < limits.window:
        return None
    for found in (_kl, _entropy, _length):
        reason = found(window, steps[0], limits)
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
    """Drift in either direction: an empty answer is as much a collapse as an endless one."""
    if not first.length > 0 or not _all(window, lambda step: _drift(step, first), limits.length, above=True):
        return ""
    now, then = window[-1].length, first.length
    return f"completions of {now:.3g} tokens against {then:.3g} at first, limit {limits.length:g} times,"


def _drift(step: Step, first: Step) -> float:
    """How many times longer, or shorter, than at the first step; at least 1."""
    if math.isnan(step.length):
        return math.nan
    return max(step.length / first.length, first.length / max(step.length, 1e-9))


def _all(window: Sequence[Step], value: Callable[[Step], float], limit: float | None, *, above: bool) -> bool:
    """Whether every step passes the limit; a step that was not measured does not."""
    if limit is None:
        return False
    return all(value(step) >= limit if above else value(step) <= limit for step in window)
