"""The progress of a training: curves, early stopping, and checkpoints."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sia_runner.config.training import EarlyStopping
from sia_runner.records import Trajectory
from sia_runner.training.adapters import AdapterOrigin
from sia_runner.training.protocol import TrainingJob, TrainingResult


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """The figures of one optimizer step."""

    reward: float  # mean over trajectories that have one
    kl: float  # nats per completion, to the base; where it is only watched, the last measurement (see kl_batch_stride)
    entropy: float  # nats per token
    zero_groups: float  # share of questions whose samples all got the same reward
    length: float  # mean completion, in tokens
    tokens: int  # completion tokens trained on


@dataclass(frozen=True, slots=True)
class CollapseVerdict:
    """A reason to stop. `harmful`: the weights of the last `window` steps must not be used."""

    reason: str
    harmful: bool


def kl_batch_stride(limits: EarlyStopping, iterations: int) -> int:
    """Return N: a KL that is only watched is measured on every Nth batch of rollouts, twice in a window."""
    return max(1, min(4, (limits.window - 1) // iterations))


def kl_row_stride(rows: int) -> int:
    """Return N: a KL that is only watched is measured on every Nth row, at most every eighth."""
    return max(1, min(8, rows // 8))


def check_collapse(steps: Sequence[TrainingStep], limits: EarlyStopping) -> CollapseVerdict | None:
    """Return a verdict if all of the last `limits.window` steps agree that training has collapsed, else None."""
    window = steps[-limits.window :]
    if len(window) < limits.window:
        return None
    for check in (_kl_reason, _entropy_reason, _length_reason):
        reason = check(window, steps[0], limits)
        if reason:
            return CollapseVerdict(f"{reason} for {limits.window} steps", harmful=True)
    if _all_past_limit(window, lambda step: step.zero_groups, limits.max_uniform_groups, above=True):
        # Nothing left to learn is no damage: most often every sample is right.
        return CollapseVerdict(
            f"{window[-1].zero_groups:.0%} of the questions gave all their samples the same reward "
            f"(mean {window[-1].reward:.3g}) for {limits.window} steps",
            harmful=False,
        )
    return None


def _kl_reason(window: Sequence[TrainingStep], first: TrainingStep, limits: EarlyStopping) -> str:
    if not _all_past_limit(window, lambda step: step.kl, limits.max_kl, above=True):
        return ""
    return f"KL to the base {window[-1].kl:.3g} nats per completion, limit {limits.max_kl:g},"


def _entropy_reason(window: Sequence[TrainingStep], first: TrainingStep, limits: EarlyStopping) -> str:
    if not _all_past_limit(window, lambda step: step.entropy, limits.min_entropy, above=False):
        return ""
    return f"entropy {window[-1].entropy:.3g} nats per token, limit {limits.min_entropy:g},"


def _length_reason(window: Sequence[TrainingStep], first: TrainingStep, limits: EarlyStopping) -> str:
    """Check drift in either direction: an empty answer is as much a collapse as an endless one."""
    if not first.length > 0 or not _all_past_limit(
        window, lambda step: _length_drift(step, first), limits.max_length_ratio, above=True
    ):
        return ""
    current, initial = window[-1].length, first.length
    return (
        f"completions of {current:.3g} tokens against {initial:.3g} at first, limit {limits.max_length_ratio:g} times,"
    )


def _length_drift(step: TrainingStep, first: TrainingStep) -> float:
    """Return how many times longer, or shorter, completions are than at the first step; at least 1."""
    if math.isnan(step.length):
        return math.nan
    return max(step.length / first.length, first.length / max(step.length, 1e-9))


def _all_past_limit(
    window: Sequence[TrainingStep], value: Callable[[TrainingStep], float], limit: float | None, *, above: bool
) -> bool:
    """Return True if every step passes the limit; a step that was not measured does not."""
    if limit is None:
        return False
    return all(value(step) >= limit if above else value(step) <= limit for step in window)


@dataclass
class TrainingProgress:
    """The state of a training, updated with each step."""

    curve: list[TrainingStep] = field(default_factory=list)  # online: one per step; offline: one per round of rollouts
    steps: int = 0
    data_sha256: str = hashlib.sha256(b"").hexdigest()
    seconds: float = 0.0
    stopped: str = ""
    kept: int | None = None  # the step whose weights are the result, if not the last one

    def saw(self, trajectories: Iterable[Trajectory]) -> None:
        """Chain the trajectories of one batch of rollouts into the hash of the data."""
        digest = hashlib.sha256(self.data_sha256.encode())
        for trajectory in sorted(trajectories, key=lambda trajectory: (trajectory.unit, trajectory.sample)):
            calls = [[call.prompt_ids, call.completion_ids] for call in trajectory.calls]
            digest.update(json.dumps([trajectory.unit, trajectory.sample, trajectory.reward, calls]).encode())
        self.data_sha256 = digest.hexdigest()

    def as_plain(self) -> dict[str, Any]:
        """Return numbers and strings only, which torch.load reads without running code."""
        return {**asdict(self), "curve": [asdict(step) for step in self.curve]}

    @staticmethod
    def from_plain(data: dict[str, Any]) -> "TrainingProgress":
        """Return the progress that `as_plain` gave."""
        return TrainingProgress(**{**data, "curve": [TrainingStep(**step) for step in data["curve"]]})

    def figures(self, rollouts: int) -> dict[str, float]:
        """Return the figures of the newest step or batch of rollouts; `rollouts`: its number of trajectories."""
        return {"step": self.steps, **asdict(self.curve[-1]), "rollouts": rollouts, "seconds": round(self.seconds, 3)}

    def trained(self) -> TrainingResult:
        """Return the record of the whole update, including what was done before a kill."""
        return TrainingResult(
            steps=self.steps,
            reward=[step.reward for step in self.curve],
            kl=[step.kl for step in self.curve],
            entropy=[step.entropy for step in self.curve],
            stopped=self.stopped,
            tokens=sum(step.tokens for step in self.curve),
            seconds=self.seconds,
        )

    def origin(self, job: TrainingJob, parent: str | None) -> AdapterOrigin:
        """Return the adapter's record of its origin."""
        curve = self.curve[: self.kept]
        last = curve[-1] if curve else None
        return AdapterOrigin(
            base_id=job.policy.base_id,
            base_sha256=job.policy.base_sha256,
            lora=job.algorithm.lora.model_dump(),
            data_sha256=self.data_sha256,
            algorithm=job.algorithm.algorithm,
            steps=self.steps if self.kept is None else self.kept,
            seed=job.seed,
            kl=last.kl if last else None,
            reward=last.reward if last else None,
            parent=parent,
        )


def training_key(job: TrainingJob, parent: str | None) -> str:
    """Return a hash of algorithm, base, start, questions and seed; only checkpoints with the same key are resumed."""
    parts = [job.algorithm.model_dump(), job.policy.base_sha256, parent, list(job.units), job.seed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class CheckpointStore:
    """The checkpoints of one training in a folder; those with another `key` are never resumed.

    A checkpoint holds the adapter, the optimizer, the learning-rate schedule and the curves after a step. Random states
    are not needed: each step draws from (seed, step).
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    def save(self, step: int, content: Mapping[str, Any]) -> None:
        """Write the state after `step` steps; a kill at any moment leaves it complete or absent."""
        import torch

        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".step-{step:06d}.{os.getpid()}"
        with partial.open("wb") as file:
            torch.save({"key": self._key, "step": step, "content": dict(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self._path(step))

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the newest state of this training, (steps done, content), or None."""
        return self.before(None)

    def before(self, step: int | None) -> tuple[int, dict[str, Any]] | None:
        """Return the newest state after at most `step` steps, or None."""
        import torch

        for number in reversed(self.steps()):
            if step is None or number <= step:
                saved = torch.load(self._path(number), map_location="cpu", weights_only=True)
                if saved["key"] == self._key:
                    return number, saved["content"]
        return None

    def prune(self, step: int) -> None:
        """Delete checkpoints older than the newest one of at most `step` steps."""
        old = [number for number in self.steps() if number <= step]
        for number in old[:-1]:
            self._path(number).unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self._folder.glob("step-*.pt"))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.pt"
