"""The interfaces between training and the rest: the policy and the job."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sia_runner.config.training import AlgorithmConfig, LoraSettings
from sia_runner.records import Json, Trajectory
from sia_runner.wire.learning import Learner, Sampler


class TrainablePolicy(Protocol):
    """The model under training, which the gateway serves."""

    base_id: str
    base_sha256: str
    sampler: Sampler | None  # what serves a copy of the weights; None: the learner's own weights answer

    def learner(
        self,
        lora: LoraSettings,
        start: Path | None,
        seed: int,
        *,
        critic: bool,
        temperature: float,
        max_length: int,
        work: Path,
    ) -> AbstractContextManager[Learner]:
        """Yield a learner of the adapter `start`, or of a new one; afterwards the policy is as before.

        Logprobs are at `temperature`; rows have at most `max_length` tokens; `work` is the folder of checkpoints, in
        which a tag's state may have a folder of the tag's name. Raises PolicyError.
        """
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
    # a checkpoint was written: the steps that are done, and what the learner saved, such as a path of a service
    checkpointed: Callable[[int, Json], None] = lambda step, state: None
