"""The interfaces between training and the rest: the policy and the job."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sia_runner.config.training import AlgorithmConfig
from sia_runner.records import Trajectory


class TrainablePolicy(Protocol):
    """The model under training, which the gateway serves: one copy of the weights in this process."""

    model: Any  # a transformers model; PEFT's once it has an adapter
    tokenizer: Any
    base_id: str
    base_sha256: str

    def training(self) -> AbstractContextManager[Any]:
        """Yield the model in train mode; no request is answered meanwhile, and eval mode follows."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One update of the weights, as it shall be done."""

    algorithm: AlgorithmConfig
    policy: TrainablePolicy
    # (questions, samples=, step=, temperature=): runs the harness itself so many times over the questions, in its
    # sandbox, against the live policy, seeded by the step; returns the trajectories in any order
    roll: Callable[..., list[Trajectory]]
    units: Sequence[str]  # rollout questions
    start: Path | None  # the adapter to start from; None: the base
    out: Path  # the new adapter's folder, complete or absent
    work: Path  # checkpoints; they stay until the step is journaled, so that a kill resumes in the middle
    seed: int
    say: Callable[[str], None]  # one line of progress per step
    # figures of a step, or of a round of rollouts: {"step": 3, "reward": 0.5, ...}
    record: Callable[[Mapping[str, float]], None] = lambda figures: None
