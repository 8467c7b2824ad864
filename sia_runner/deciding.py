"""Which lever is pulled next, and with which algorithm: measured first, then decided by the written rules."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sia_runner.config import Experiment
from sia_runner.records import Lever, Past
from sia_runner.rolling import Rolling
from sia_runner.rooms import rooms
from sia_runner.rundir import RunDir
from sia_runner.tasks.splits import shuffled
from sia_runner.training_config import Algorithm, Auto, LeverRule, NoTrainer

_SAMPLES = 4  # rollouts of each question of a probe


@dataclass(frozen=True, slots=True)
class Decision:
    """Weights shall be trained: with what, and why. `evidence`: the measured shape of the reward, if there is one."""

    algorithm: Algorithm
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)


def decide(
    config: Experiment, run: RunDir, n: int, history: Sequence[Past], incumbent: int | None, because: str = ""
) -> Decision | None:
    """None: the harness lever, as the proposer says. There is nothing to train before a harness was accepted.
    `because`: the weights' turn for a reason of the caller's."""
    trainer = config.trainer
    if isinstance(trainer, NoTrainer) or incumbent is None:
        return None
    due = because or _due(config.lever, history, n, config.max_gen)
    if not due:
        return None
    if isinstance(trainer, Algorithm):
        return Decision(trainer, f"{due}; the trainer is fixed: {trainer.name}")
    return _by_shape(config, run, n, incumbent, trainer, due)


def _due(rule: LeverRule, history: Sequence[Past], n: int, max_gen: int) -> str:
    """Why the weights are to be trained now; empty when the harness has its turn."""
    from sia_runner.training.rules import lever, plateau_length

    pull = lever(plateau_length(history), rule.plateau, math.inf, 0.0)
    if pull.lever is Lever.WEIGHTS:
        return pull.reason
    tried = any(past.lever is not Lever.HARNESS for past in history)
    if not tried and n > math.ceil(rule.latest * max_gen):
        return f"generation {n} of {max_gen}, and no weights were trained yet"
    return ""


def _by_shape(config: Experiment, run: RunDir, n: int, incumbent: int, trainer: Auto, due: str) -> Decision:
    """A few cheap rollouts before anything is spent on training."""
    from sia_runner.training.rules import choose
    from sia_runner.training.shape import measure

    units = shuffled(rooms(config).task.splits()["rollout"], f"{config.seed}:probe {n}")[: config.lever.probe]
    there = run.generation(incumbent)
    roll = Rolling(config, run, n, there.harness, there.adapter_used, live=False)
    began = time.monotonic()
    shape = measure(roll(units, samples=_SAMPLES, step=-1, temperature=1.0), time.monotonic() - began)
    choice = choose(shape)
    return Decision(trainer.algorithms[choice.algorithm], f"{due}; {choice.reason}", {"shape": shape.as_json()})
