"""How far a training has come: curves, hash of the data, seconds; what a checkpoint keeps beside the weights."""

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
    """Grows with each step."""

    curve: list[Step] = field(default_factory=list)  # online: one per step; offline: one per round of rollouts
    steps: int = 0
    data_sha256: str = hashlib.sha256(b"").hexdigest()
    seconds: float = 0.0
    stopped: str = ""
    kept: int | None = None  # the step whose weights are the result, where it is not the last one

    def saw(self, trajectories: Iterable[Trajectory]) -> None:
        """Chain the trajectories of one batch of rollouts into the hash of the data."""
        digest = hashlib.sha256(self.data_sha256.encode())
        for one in sorted(trajectories, key=lambda one: (one.unit, one.sample)):
            calls = [[call.prompt_ids, call.completion_ids] for call in one.calls]
            digest.update(json.dumps([one.unit, one.sample, one.reward, calls]).encode())
        self.data_sha256 = digest.hexdigest()

    def as_plain(self) -> dict[str, Any]:
        """Numbers and strings only: what torch.load takes without running code."""
        return {**asdict(self), "curve": [asdict(step) for step in self.curve]}

    @staticmethod
    def from_plain(data: dict[str, Any]) -> "Progress":
        return Progress(**{**data, "curve": [Step(**step) for step in data["curve"]]})

    def figures(self, rollouts: int) -> dict[str, float]:
        """Of the newest step, or round of rollouts; `rollouts`: trajectories that were made for it."""
        return {"step": self.steps, **asdict(self.curve[-1]), "rollouts": rollouts, "seconds": round(self.seconds, 3)}

    def trained(self) -> Trained:
        """The record of the whole update, also of what was done before a kill."""
        return Trained(
            steps=self.steps,
            reward=[step.reward for step in self.curve],
            kl=[step.kl for step in self.curve],
            entropy=[step.entropy for step in self.curve],
            stopped=self.stopped,
            tokens=sum(step.tokens for step in self.curve),
            seconds=self.seconds,
        )

    def origin(self, one: Assignment, parent: str | None) -> Origin:
        """What the adapter's file says of itself."""
        curve = self.curve[: self.kept]
        last = curve[-1] if curve else None
        return Origin(
            base_id=one.policy.base_id,
            base_sha256=one.policy.base_sha256,
            lora=one.algorithm.lora.model_dump(),
            data_sha256=self.data_sha256,
            algorithm=one.algorithm.algorithm,
            steps=self.steps if self.kept is None else self.kept,
            seed=one.seed,
            kl=last.kl if last else None,
            reward=last.reward if last else None,
            parent=parent,
        )


def key_of(one: Assignment, parent: str | None) -> str:
    """Says whether a checkpoint belongs to this assignment: the same algorithm, base, start, questions and seed."""
    parts = [one.algorithm.model_dump(), one.policy.base_sha256, parent, list(one.units), one.seed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
