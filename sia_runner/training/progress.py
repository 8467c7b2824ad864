"""The progress of a training: curves, early stopping, and checkpoints."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sia_runner.config.training import AlgorithmConfig, EarlyStopping
from sia_runner.records import Trajectory
from sia_runner.stage_results import TrainingResult
from sia_runner.training.adapters import AdapterOrigin
from sia_runner.training.batch import RolloutBatch
from sia_runner.training.protocol import TrainingJob


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """The figures of one optimizer step."""

    reward: float  # mean over trajectories that have one
    kl: float  # nats per completion, to the base; where it is only watched, the last measurement (see kl_batch_stride)
    entropy: float  # nats per token
    zero_groups: float  # share of questions whose samples all got the same reward
    length: float  # mean completion, in tokens
    tokens: int  # completion tokens trained on

    @staticmethod
    def of(batch: RolloutBatch, kl: float, entropy: float, tokens: int = 0) -> "TrainingStep":
        """Return the figures of a step on a batch of rollouts."""
        reward, length = batch.reward_n.mean(), np.mean([len(row.completion_ids) for row in batch.rows])
        return TrainingStep(float(reward), kl, entropy, batch.equal_reward_share(), float(length), tokens)


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
    """Return a verdict if all of the last `limits.window` steps agree; a figure that is nan passes no limit."""
    window, first = steps[-limits.window :], steps[0].length
    if len(window) < limits.window:
        return None
    last, reason = window[-1], ""
    if limits.max_kl is not None and all(step.kl >= limits.max_kl for step in window):
        reason = f"KL to the base {last.kl:.3g} nats per completion, limit {limits.max_kl:g},"
    elif limits.min_entropy is not None and all(step.entropy <= limits.min_entropy for step in window):
        reason = f"entropy {last.entropy:.3g} nats per token, limit {limits.min_entropy:g},"
    elif limits.max_length_ratio is not None and first > 0:
        # In either direction: an empty answer is as much a collapse as an endless one.
        drifts = [max(step.length / first, first / max(step.length, 1e-9)) for step in window]
        if all(drift >= limits.max_length_ratio for drift in drifts):
            limit = f"limit {limits.max_length_ratio:g} times,"
            reason = f"completions of {last.length:.3g} tokens against {first:.3g} at first, {limit}"
    if reason:
        return CollapseVerdict(f"{reason} for {limits.window} steps", harmful=True)
    limit = limits.max_uniform_groups
    if limit is not None and all(step.zero_groups >= limit for step in window):
        # Nothing left to learn is no damage: most often every sample is right.
        return CollapseVerdict(
            f"{last.zero_groups:.0%} of the questions gave all their samples the same reward "
            f"(mean {last.reward:.3g}) for {limits.window} steps",
            harmful=False,
        )
    return None


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

    @staticmethod
    def from_plain(data: dict[str, Any]) -> "TrainingProgress":
        """Return the progress that `asdict` made plain data, which torch.load reads without running code."""
        return TrainingProgress(**{**data, "curve": [TrainingStep(**step) for step in data["curve"]]})

    def figures(self, rollouts: int) -> dict[str, float]:
        """Return the figures of the newest step or batch of rollouts; `rollouts`: its number of trajectories."""
        return {"step": self.steps, **asdict(self.curve[-1]), "rollouts": rollouts, "seconds": round(self.seconds, 3)}

    def trained(self, algorithm: AlgorithmConfig) -> TrainingResult:
        """Return the record of the whole update, including what was done before a kill."""
        return TrainingResult(
            algorithm=algorithm.model_dump(mode="json"),
            steps=self.steps,
            reward=tuple(step.reward for step in self.curve),
            kl=tuple(step.kl for step in self.curve),
            entropy=tuple(step.entropy for step in self.curve),
            stopped=self.stopped,
            tokens=sum(step.tokens for step in self.curve),
            seconds=round(self.seconds, 3),
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

    Random states are not needed: each step draws from (seed, step).
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key

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

    def latest(self, step: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """Return the newest state of this training, after at most `step` steps: (steps done, content), or None."""
        import torch

        for number in reversed(self.steps()):
            if step is None or number <= step:
                saved = torch.load(self._path(number), map_location="cpu", weights_only=True)
                if saved["key"] == self._key:
                    return number, saved["content"]
        return None

    def prune(self, step: int) -> None:
        """Delete checkpoints older than the newest one of at most `step` steps."""
        for number in [number for number in self.steps() if number <= step][:-1]:
            self._path(number).unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        return sorted(int(path.stem.removeprefix("step-")) for path in self._folder.glob("step-*.pt"))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.pt"
