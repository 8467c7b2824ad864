"""Probes: a few rollouts of a harness before a training is paid for, cached by harness and weights."""

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

_SAMPLES = 4  # rollouts of each question: the fewest that show differences within a group


@dataclass(frozen=True, slots=True)
class Probe:
    """The measurements of a probe. `fault`: why the harness could not run; then nothing was measured."""

    shape: "Shape"
    outcomes: Mapping[str, int]  # of the rollouts, by kind
    calls: int  # model calls, including those without a question
    tokens: int
    seconds: float
    fault: str = ""

    @property
    def cost(self) -> dict[str, float]:
        """The calls, tokens and seconds that the probe took."""
        return {"calls": self.calls, "tokens": self.tokens, "seconds": self.seconds}


def probe(config: Experiment, run: RunDir, n: int, files: Mapping[str, str], adapter: Path | None) -> Probe:
    """Probe the harness `files` on the weights `adapter` (None: the base).

    The same harness on the same weights is rolled out once, in any generation and after a kill; except if rollouts
    failed for reasons that are not the harness's.
    """
    from sia_runner.training.shape import Shape

    key = _key(config, files, adapter)
    path = run.probes / f"{key}.json"
    if path.is_file():
        stored = read_json(path)
        return Probe(**{**stored, "shape": Shape(**stored["shape"])})
    result = _rolled(config, run, n, f"probe_{key}", files, adapter)
    if not result.shape.failed:
        run.probes.mkdir(exist_ok=True)
        write_json(path, asdict(result))
    return result


def _key(config: Experiment, files: Mapping[str, str], adapter: Path | None) -> str:
    weights = tree_sha256(adapter) if adapter else None
    content = json.dumps([dict(files), weights, config.lever.probe, _temperature(config)], sort_keys=True)
    return hashlib.sha256(content.encode(errors="backslashreplace")).hexdigest()[:16]


def _temperature(config: Experiment) -> float:
    """Return the temperature of the training that would follow, or 1 with trainer=auto, which has not chosen yet."""
    return config.trainer.temperature if isinstance(config.trainer, Algorithm) else 1.0


def _rolled(
    config: Experiment, run: RunDir, n: int, candidate: str, files: Mapping[str, str], adapter: Path | None
) -> Probe:
    from sia_runner.training.shape import measure

    generation, task = run.generation(n), rooms(config).task
    questions = shuffled(task.splits()["rollout"], f"{config.seed}:probe")[: config.lever.probe]
    harness = generation.rollouts / "harness"
    remove(generation.rollouts)  # from an interrupted probe
    harness.parent.mkdir(parents=True)
    try:
        if fault := _written(config, files, harness):
            return Probe(measure([], 0.0), {}, 0, 0, 0.0, fault)
        if gateway := models(config, run):
            gateway.policy()  # loading the weights is not part of a rollout's time
        start = time.monotonic()
        roll = Rolling(config, run, n, harness, adapter, live=False, candidate=candidate)
        trajectories = roll(questions, samples=_SAMPLES, step=-1, temperature=_temperature(config))
        seconds = time.monotonic() - start
    finally:
        remove(generation.rollouts)
    usage = read(run.ledger).of(candidate=candidate).usage()
    kinds = [trajectory.kind for trajectory in trajectories]
    outcomes = {kind.value: kinds.count(kind) for kind in OutcomeKind if kind in kinds}
    return Probe(measure(trajectories, seconds), outcomes, usage.calls, usage.tokens, round(seconds, 3))


def _written(config: Experiment, files: Mapping[str, str], harness: Path) -> str:
    """Write the harness; return why these files are no valid harness, or an empty text."""
    try:
        write_harness(files, harness, rooms(config).task.entry)
    except FaultyHarness as fault:
        return str(fault)
    return environment_fault(config, harness)
