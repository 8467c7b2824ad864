"""A weights update: rollouts of the harness itself, training, and a new adapter in the generation's folder."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.config import Experiment
from sia_runner.models.protocol import ModelsError
from sia_runner.records import Trajectory
from sia_runner.rooms import models, rooms
from sia_runner.rundir import RunDir, remove, tree_sha256
from sia_runner.sandbox.protocol import SandboxError
from sia_runner.schema.training import Algorithm
from sia_runner.tasks.protocol import TaskError
from sia_runner.training.protocol import Assignment, Roll, TrainingError
from sia_runner.weights.rolling import Rolling

Result = dict[str, Any]


def learn(config: Experiment, run: RunDir, n: int, parent: int, algorithm: Algorithm, process: int = 0) -> Result:
    """Train on from the parent's adapter; afterwards gen_<n>/adapter is complete or absent.

    `fault` is one line if the training failed, and `unscored` says that the candidate did not cause it. After a kill it
    resumes from the last checkpoint. Several processes may do this together: `process` is the number of this one, and
    the first one writes. Raises ProviderDown, and BudgetSpent if the run's budget is spent.
    """
    generation, gateway = run.generation(n), models(config, run)
    if gateway is None:
        raise ModelsError("a weights update needs a policy: target_agent=policy")
    remove(generation.adapter)
    policy, roll = gateway.policy(), _Watched(Rolling(config, run, n, generation.harness, process=process))
    assignment = Assignment(
        algorithm=algorithm,
        policy=policy,
        roll=roll,
        units=rooms(config).task.splits()["rollout"],
        start=run.generation(parent).adapter_used,
        out=generation.adapter,
        work=generation.training,
        seed=config.seed,
        say=lambda line: _note(generation.path / "training.log", line),
        record=lambda figures: _note(generation.curve, _json(figures)),
    )
    try:
        trained = _driver(algorithm)(assignment)
    except (TrainingError, TaskError, SandboxError) as error:
        return {"fault": f"{algorithm.name}: {error}", "unscored": roll.unrewarded}
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        return {"fault": f"{algorithm.name}: {str(error).splitlines()[0]}"}
    if not trained.tokens:  # the weights equal the parent's, so gate and val would measure nothing new
        remove(generation.adapter)
        return {"fault": f"{algorithm.name}: nothing to learn from: no question's samples differed in reward"}
    policy.use(generation.adapter)  # the live weights are those of a saved adapter again
    return {
        "fault": "",
        "algorithm": algorithm.model_dump(mode="json"),
        "steps": trained.steps,
        "reward": list(trained.reward),
        "kl": list(trained.kl),
        "entropy": list(trained.entropy),
        "stopped": trained.stopped,
        "tokens": trained.tokens,
        "seconds": round(trained.seconds, 3),
        "adapter_sha256": tree_sha256(generation.adapter),
    }


@dataclass(slots=True)
class _Watched:
    """A collector (see training.protocol.Roll) that remembers if the newest rollouts have no reward at all.

    Then a budget or a verifier failed, which is not the candidate's fault.
    """

    roll: Roll
    unrewarded: bool = False

    def __call__(self, units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        trajectories = self.roll(units, samples=samples, step=step, temperature=temperature)
        self.unrewarded = bool(trajectories) and all(trajectory.reward is None for trajectory in trajectories)
        return trajectories


def inherit(run: RunDir, n: int, parent: int | None) -> str | None:
    """Link the parent's adapter into the generation of a new harness; return its hash, or None for the base alone."""
    generation = run.generation(n)
    remove(generation.adapter)
    adapter = run.generation(parent).adapter_used if parent is not None else None
    if adapter is None:
        return None
    generation.adapter.symlink_to(Path("..") / adapter.parent.name / adapter.name)
    return tree_sha256(adapter)


def _driver(algorithm: Algorithm) -> Any:
    from sia_runner.training import offline, online

    return {"online": online.train, "offline": offline.train}[algorithm.kind]


def _json(figures: Mapping[str, float]) -> str:
    """Return one JSON line; NaN (a KL that was not measured) becomes null."""
    return json.dumps({key: value if math.isfinite(value) else None for key, value in figures.items()})


def _note(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")
