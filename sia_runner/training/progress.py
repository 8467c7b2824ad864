"""The progress of a training: curves, hash of the data, seconds; part of each checkpoint."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from sia_runner.records import Trajectory
from sia_runner.training.adapters import Origin
from sia_runner.training.collapse import Step
from sia_runner.training.protocol import Assignment, Trained


@dataclass
class Progress:
    """The state of a training, updated with each step."""

    curve: list[Step] = field(default_factory=list)  # online: one per step; offline: one per round of rollouts
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
    def from_plain(data: dict[str, Any]) -> "Progress":
        """Return the progress that `as_plain` gave."""
        return Progress(**{**data, "curve": [Step(**step) for step in data["curve"]]})

    def figures(self, rollouts: int) -> dict[str, float]:
        """Return the figures of the newest step or batch of rollouts; `rollouts`: its number of trajectories."""
        return {"step": self.steps, **asdict(self.curve[-1]), "rollouts": rollouts, "seconds": round(self.seconds, 3)}

    def trained(self) -> Trained:
        """Return the record of the whole update, including what was done before a kill."""
        return Trained(
            steps=self.steps,
            reward=[step.reward for step in self.curve],
            kl=[step.kl for step in self.curve],
            entropy=[step.entropy for step in self.curve],
            stopped=self.stopped,
            tokens=sum(step.tokens for step in self.curve),
            seconds=self.seconds,
        )

    def origin(self, job: Assignment, parent: str | None) -> Origin:
        """Return the adapter's record of its origin."""
        curve = self.curve[: self.kept]
        last = curve[-1] if curve else None
        return Origin(
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


def key_of(job: Assignment, parent: str | None) -> str:
    """Return the key of a job: a hash of algorithm, base, start, questions and seed.

    Only checkpoints with the same key are resumed.
    """
    parts = [job.algorithm.model_dump(), job.policy.base_sha256, parent, list(job.units), job.seed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
