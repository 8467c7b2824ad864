"""The progress of a training: its curves, and when it stops early."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sia_runner.config.training import AlgorithmConfig, EarlyStopping
from sia_runner.records import Trajectory
from sia_runner.selection.algorithm_choice import FloatArray
from sia_runner.stage_results import TrainingResult
from sia_runner.training.batch import RolloutBatch
from sia_runner.training.drift import Drift
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
    # What sampled the rollouts against the learner, before the first step on them (Drift); nan: not measured.
    drift_kl: float = math.nan
    drift_share: float = math.nan

    @staticmethod
    def of(
        batch: RolloutBatch, kl: float, entropy: float, tokens: int = 0, drift: Drift | None = None
    ) -> "TrainingStep":
        """Return the figures of a step on a batch of rollouts."""
        reward, length = batch.reward_n.mean(), np.mean([len(row.completion_ids) for row in batch.rows])
        drift = drift or Drift(math.nan, math.nan)
        equal = batch.equal_reward_share()
        return TrainingStep(float(reward), kl, entropy, equal, float(length), tokens, drift.kl, drift.outside)


@dataclass(frozen=True, slots=True)
class CollapseVerdict:
    """A reason to stop. `harmful`: the weights of the last `window` batches of rollouts must not be used."""

    reason: str
    harmful: bool


def kl_batch_stride(limits: EarlyStopping) -> int:
    """Return N: a KL that is only watched is measured on every Nth batch of rollouts, twice in a window."""
    return max(1, min(4, limits.window - 1))


def kl_row_stride(rows: int) -> int:
    """Return N: a KL that is only watched is measured on every Nth row, at most every eighth."""
    return max(1, min(8, rows // 8))


def check_collapse(curve: Sequence[TrainingStep], limits: EarlyStopping, iterations: int = 1) -> CollapseVerdict | None:
    """Return a verdict if the last `limits.window` batches of rollouts agree; a figure that is nan passes no limit.

    `iterations`: optimizer steps on each batch. The first of them counts, which has the figures of the weights that
    the rollouts came from: more steps on a batch are no more evidence.
    """
    steps = curve[::iterations]
    window, first = steps[-limits.window :], steps[0].length
    if len(window) < limits.window:
        return None
    lasting = f"for {limits.window} batches of rollouts"
    last, reason = window[-1], ""
    if limits.max_kl is not None and all(step.kl >= limits.max_kl for step in window):
        reason = f"KL to the base {last.kl:.3g} nats per completion, limit {limits.max_kl:g},"
    elif limits.min_entropy is not None and all(step.entropy <= limits.min_entropy for step in window):
        reason = f"entropy {last.entropy:.3g} nats per token, limit {limits.min_entropy:g},"
    elif limits.max_drift is not None and all(step.drift_kl >= limits.max_drift for step in window):
        reason = f"KL of the sampler to the learner {last.drift_kl:.3g} nats per token, limit {limits.max_drift:g},"
    elif limits.max_length_ratio is not None and first > 0:
        # In either direction: an empty answer is as much a collapse as an endless one.
        drifts = [max(step.length / first, first / max(step.length, 1e-9)) for step in window]
        if all(drift >= limits.max_length_ratio for drift in drifts):
            limit = f"limit {limits.max_length_ratio:g} times,"
            reason = f"completions of {last.length:.3g} tokens against {first:.3g} at first, {limit}"
    if reason:
        return CollapseVerdict(f"{reason} {lasting}", harmful=True)
    limit = limits.max_uniform_groups
    if limit is not None and all(step.zero_groups >= limit for step in window):
        # Nothing left to learn is no damage: most often every sample is right.
        return CollapseVerdict(
            f"{last.zero_groups:.0%} of the questions gave all their samples the same reward "
            f"(mean {last.reward:.3g}) {lasting}",
            harmful=False,
        )
    return _flat_reward(steps, limits)


def _flat_reward(steps: Sequence[TrainingStep], limits: EarlyStopping) -> CollapseVerdict | None:
    """Return a verdict if the last `gain_window` batches earned hardly more than as many before them."""
    count = limits.gain_window
    if limits.min_gain is None or len(steps) < 2 * count:
        return None
    recent, earlier = (np.mean([step.reward for step in part]) for part in (steps[-count:], steps[-2 * count : -count]))
    if recent - earlier >= limits.min_gain:
        return None
    reason = f"mean reward {recent:.3g} in the last {count} batches, {earlier:.3g} in the {count} before: a gain of "
    return CollapseVerdict(f"{reason}{recent - earlier:.3g}, less than {limits.min_gain:g}", harmful=False)


@dataclass(frozen=True, slots=True)
class RewardScale:
    """The unit of a critic's values: standard deviations of a training's first rewards, from their mean.

    So a value head that begins at 0 begins at the mean, and learns as fast whatever the unit of the rewards.
    """

    mean: float
    deviation: float

    @staticmethod
    def of(reward_n: FloatArray) -> "RewardScale":
        """Return the scale of some rewards; the deviation is 1 where all are the same."""
        return RewardScale(float(reward_n.mean()), float(reward_n.std()) if np.ptp(reward_n) else 1.0)

    def to_rewards(self, value_bt: FloatArray) -> FloatArray:
        """Return a critic's values as rewards."""
        return self.mean + self.deviation * value_bt

    def to_values(self, reward_bt: FloatArray) -> FloatArray:
        """Return rewards as a critic's values."""
        return (reward_bt - self.mean) / self.deviation


@dataclass
class TrainingProgress:
    """The state of a training, updated with each step."""

    curve: list[TrainingStep] = field(default_factory=list)  # online: one per step; offline: one per round of rollouts
    steps: int = 0
    data_sha256: str = hashlib.sha256(b"").hexdigest()
    seconds: float = 0.0
    stopped: str = ""
    kept: int | None = None  # the step whose weights are the result, if not the last one
    reward_scale: RewardScale | None = None  # with a critic: of the first rewards that differed; None: none did yet

    def saw(self, trajectories: Iterable[Trajectory]) -> None:
        """Chain the trajectories of one batch of rollouts into the hash of the data."""
        digest = hashlib.sha256(self.data_sha256.encode())
        for trajectory in sorted(trajectories, key=lambda trajectory: (trajectory.unit, trajectory.sample)):
            calls = [[call.prompt_ids, call.completion_ids] for call in trajectory.calls]
            digest.update(json.dumps([trajectory.unit, trajectory.sample, trajectory.reward, calls]).encode())
        self.data_sha256 = digest.hexdigest()

    @staticmethod
    def from_json(data: dict[str, Any]) -> "TrainingProgress":
        """Return the progress that `asdict` made plain data."""
        scale = data.get("reward_scale", {"mean": 0.0, "deviation": 1.0})  # earlier versions had none
        curve = [TrainingStep(**step) for step in data["curve"]]
        return TrainingProgress(**{**data, "curve": curve, "reward_scale": scale and RewardScale(**scale)})

    def scale_of(self, reward_n: FloatArray) -> RewardScale:
        """Return the scale of the training's rewards, of which `reward_n` are the newest."""
        if self.reward_scale is None and np.ptp(reward_n):
            self.reward_scale = RewardScale.of(reward_n)
        return self.reward_scale or RewardScale.of(reward_n)

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
            drift_kl=_measured([step.drift_kl for step in self.curve]),
            drift_share=_measured([step.drift_share for step in self.curve]),
        )

    def origin(self, job: TrainingJob, parent: str | None) -> dict[str, Any]:
        """Return the adapter's record of its origin (see AdapterOrigin); `parent`: hash of the adapter before."""
        curve = self.curve[: self.kept]
        last = curve[-1] if curve else None
        return {
            "base_id": job.policy.base_id,
            "base_sha256": job.policy.base_sha256,
            "lora": job.algorithm.lora.model_dump(),
            "data_sha256": self.data_sha256,
            "algorithm": job.algorithm.algorithm,
            "steps": self.steps if self.kept is None else self.kept,
            "seed": job.seed,
            "kl": last.kl if last else None,
            "reward": last.reward if last else None,
            "parent": parent,
        }


def _measured(curve: Sequence[float]) -> tuple[float | None, ...] | None:
    """Return a curve with None for nan; None if nothing was measured."""
    values = tuple(None if math.isnan(value) else value for value in curve)
    return None if all(value is None for value in values) else values
