"""A probe: a few rollouts of a harness before anything is spent on training. Rolled once, and kept."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sia_runner.candidate.execute import environment_fault
from sia_runner.candidate.harness import FaultyHarness, write_harness
from sia_runner.config import Experiment
from sia_runner.models.ledger import read
from sia_runner.records import OutcomeKind
from sia_runner.rooms import models, rooms
from sia_runner.rundir import RunDir, read_json, remove, tree_sha256, write_json
from sia_runner.schema.training import Algorithm
from sia_runner.tasks.splits import shuffled
from sia_runner.weights.rolling import Rolling

if TYPE_CHECKING:
    from sia_runner.training.shape import Shape

_SAMPLES = 4  # rollouts of each question: the least that shows differences within a group


@dataclass(frozen=True, slots=True)
class Probe:
    """`fault`: why the harness could not be rolled out at all; then nothing was measured."""

    shape: "Shape"
    outcomes: Mapping[str, int]  # of the rollouts, by kind
    calls: int  # model calls made, those that name no question included
    tokens: int
    seconds: float
    fault: str = ""

    @property
    def cost(self) -> dict[str, float]:
        return {"calls": self.calls, "tokens": self.tokens, "seconds": self.seconds}


def probe(config: Experiment, run: RunDir, n: int, files: Mapping[str, str], adapter: Path | None) -> Probe:
    """Of the harness `files` on the weights `adapter` (None: the base). The same harness on the same weights is not
    rolled twice, in no generation and after no kill; unless rollouts failed for reasons that are not the harness's."""
    from sia_runner.training.shape import Shape

    key = _key(config, files, adapter)
    kept = run.probes / f"{key}.json"
    if kept.is_file():
        stored = read_json(kept)
        return Probe(**{**stored, "shape": Shape(**stored["shape"])})
    found = _rolled(config, run, n, f"probe_{key}", files, adapter)
    if not found.shape.failed:
        run.probes.mkdir(exist_ok=True)
        write_json(kept, asdict(found))
    return found


def _key(config: Experiment, files: Mapping[str, str], adapter: Path | None) -> str:
    weights = tree_sha256(adapter) if adapter else None
    content = json.dumps([dict(files), weights, config.lever.probe, _temperature(config)], sort_keys=True)
    return hashlib.sha256(content.encode(errors="backslashreplace")).hexdigest()[:16]


def _temperature(config: Experiment) -> float:
    """Of the training that would follow; with trainer=auto nobody knows yet which one that is."""
    return config.trainer.temperature if isinstance(config.trainer, Algorithm) else 1.0


def _rolled(
    config: Experiment, run: RunDir, n: int, candidate: str, files: Mapping[str, str], adapter: Path | None
) -> Probe:
    from sia_runner.training.shape import measure

    here, task = run.generation(n), rooms(config).task
    units = shuffled(task.splits()["rollout"], f"{config.seed}:probe")[: config.lever.probe]
    harness = here.rollouts / "harness"
    remove(here.rollouts)  # of a probe that was cut
    harness.parent.mkdir(parents=True)
    try:
        if fault := _written(config, files, harness):
            return Probe(measure([], 0.0), {}, 0, 0, 0.0, fault)
        if gateway := models(config, run):
            gateway.policy()  # loading the weights is no part of what a rollout takes
        began = time.monotonic()
        roll = Rolling(config, run, n, harness, adapter, live=False, candidate=candidate)
        trajectories = roll(units, samples=_SAMPLES, step=-1, temperature=_temperature(config))
        seconds = time.monotonic() - began
    finally:
        remove(here.rollouts)
    spent = read(run.ledger).of(candidate=candidate).usage()
    ended = [trajectory.kind for trajectory in trajectories]
    outcomes = {kind.value: ended.count(kind) for kind in OutcomeKind if kind in ended}
    return Probe(measure(trajectories, seconds), outcomes, spent.calls, spent.tokens, round(seconds, 3))


def _written(config: Experiment, files: Mapping[str, str], harness: Path) -> str:
    """Why these files are no harness; empty when they are one."""
    try:
        write_harness(files, harness, rooms(config).task.entry)
    except FaultyHarness as fault:
        return str(fault)
    return environment_fault(config, harness)
