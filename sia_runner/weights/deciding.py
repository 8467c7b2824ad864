"""Which lever is pulled next, and with which algorithm: measured first, then decided by the written rules."""

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
    """Whose turn it is by the rules of `lever`. `due`: why the weights shall be trained; empty: the harness's turn.
    `guaranteed`: no proposer is asked, since none of them has tried weights by `lever.latest`."""

    due: str = ""
    guaranteed: bool = False
    left_alone: str = ""  # why they are not trained all the same


@dataclass(frozen=True, slots=True)
class Decision:
    """`algorithm`: what to train with; None: the weights are left alone, for `reason`."""

    algorithm: Algorithm | None
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)  # what was measured, for decision.json


def turn(config: Experiment, history: Sequence[Past], n: int, incumbent: int | None) -> Turn:
    """There is nothing to train before a harness was accepted."""
    if isinstance(config.trainer, NoTrainer) or incumbent is None:
        return Turn()
    length = plateau_length(history)
    due = f"harness plateau {length} >= {config.lever.plateau}" if length >= config.lever.plateau else ""
    tried = any(past.lever is not Lever.HARNESS for past in history)
    if not tried and n > math.ceil(config.lever.latest * config.max_gen):
        return Turn(due or f"generation {n} of {config.max_gen}, and no weights were trained yet", guaranteed=True)
    return Turn(due)


def decide(config: Experiment, run: RunDir, n: int, incumbent: int, due: str) -> Decision:
    """The default policy: the incumbent's harness as it is, the algorithm that the rules give."""
    found = prospects(config, run, n, incumbent, read_harness(run.generation(incumbent).harness))
    return _decision(config, found, found.suggested, due, chosen_by="rules")


def chosen(
    config: Experiment, run: RunDir, n: int, parent: int, files: Mapping[str, str], algorithm: str | None, why: str
) -> Decision:
    """A proposer's own choice: refused where nothing can be trained with it. `algorithm` None: as the rules say."""
    found = prospects(config, run, n, parent, files)
    if algorithm is not None and algorithm not in allowed(config.trainer):
        names = ", ".join(allowed(config.trainer))
        return Decision(None, f"trainer={config.trainer.name} has no algorithm {algorithm[:40]!r}; allowed: {names}")
    return _decision(config, found, algorithm or found.suggested, why, chosen_by="proposer")


def _decision(config: Experiment, found: Prospects, algorithm: str, due: str, chosen_by: str) -> Decision:
    evidence = {"due": due, "chosen_by": chosen_by, **found.as_evidence(algorithm)}
    refused = found.refused.get(algorithm, "") if algorithm else found.why
    if refused:
        return Decision(None, refused, {**evidence, "skipped": refused})
    why = found.why
    if algorithm != found.suggested:
        why = f"{algorithm} is the proposer's choice; by the rules: {found.why}"
    return Decision(allowed(config.trainer)[algorithm], f"{due}; {why}" if due else why, evidence)
