"""The choice of lever and algorithm: measured first, then decided by the written rules."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sia_runner.candidate.harness import read_harness
from sia_runner.config import Experiment
from sia_runner.propose.search import plateau_length
from sia_runner.records import Lever, Past
from sia_runner.rundir import RunDir
from sia_runner.schema.training import Algorithm, NoTrainer, allowed
from sia_runner.weights.prospects import Prospects, prospects


@dataclass(frozen=True, slots=True)
class Turn:
    """The lever that the rules of `lever` give.

    `due`: why the weights shall be trained; empty for the harness. `guaranteed`: no proposer is asked, since none has
    tried weights by `lever.latest`.
    """

    due: str = ""
    guaranteed: bool = False
    left_alone: str = ""  # why the weights are not trained although they are due


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision on a training. `algorithm` None: the weights are not trained, for `reason`."""

    algorithm: Algorithm | None
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)  # measurements for decision.json


def turn(config: Experiment, history: Sequence[Past], n: int, incumbent: int | None) -> Turn:
    """Return the lever of generation `n`; there is nothing to train before a harness was accepted."""
    if isinstance(config.trainer, NoTrainer) or incumbent is None:
        return Turn()
    length = plateau_length(history)
    reason = f"harness plateau {length} >= {config.lever.plateau}" if length >= config.lever.plateau else ""
    tried = any(past.lever is not Lever.HARNESS for past in history)
    if not tried and n > math.ceil(config.lever.latest * config.max_gen):
        return Turn(reason or f"generation {n} of {config.max_gen}, and no weights were trained yet", guaranteed=True)
    return Turn(reason)


def decide(config: Experiment, run: RunDir, n: int, incumbent: int, reason: str) -> Decision:
    """Decide by the default policy: the incumbent's harness as it is, and the algorithm that the rules give."""
    measured = prospects(config, run, n, incumbent, read_harness(run.generation(incumbent).harness))
    return _decision(config, measured, measured.suggested, reason, chosen_by="rules")


def chosen(
    config: Experiment, run: RunDir, n: int, parent: int, files: Mapping[str, str], algorithm: str | None, why: str
) -> Decision:
    """Decide on a proposer's own choice; refused if nothing can be trained with it.

    `algorithm` None: as the rules say.
    """
    measured = prospects(config, run, n, parent, files)
    if algorithm is not None and algorithm not in allowed(config.trainer):
        names = ", ".join(allowed(config.trainer))
        return Decision(None, f"trainer={config.trainer.name} has no algorithm {algorithm[:40]!r}; allowed: {names}")
    return _decision(config, measured, algorithm or measured.suggested, why, chosen_by="proposer")


def _decision(config: Experiment, measured: Prospects, algorithm: str, trigger: str, chosen_by: str) -> Decision:
    evidence = {"due": trigger, "chosen_by": chosen_by, **measured.as_evidence(algorithm)}
    refused = measured.refused.get(algorithm, "") if algorithm else measured.why
    if refused:
        return Decision(None, refused, {**evidence, "skipped": refused})
    why = measured.why
    if algorithm != measured.suggested:
        why = f"{algorithm} is the proposer's choice; by the rules: {measured.why}"
    return Decision(allowed(config.trainer)[algorithm], f"{trigger}; {why}" if trigger else why, evidence)
