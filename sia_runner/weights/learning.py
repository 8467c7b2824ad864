"""One weights update: rollouts of the harness itself, training, a new adapter in the generation's folder."""

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
    """Trains on from the parent's adapter; gen_<n>/adapter is whole afterwards or not there. `fault` is one line where
    it could not be done, `unscored` says that this was not the candidate's doing. Cut by a kill, it goes on from its
    last checkpoint. Raises ProviderDown, and BudgetSpent where the run's is spent. `process`: which one this is of
    several that do this together; the first one writes."""
    here, gateway = run.generation(n), models(config, run)
    if gateway is None:
        raise ModelsError("a weights update needs a policy: target_agent=policy")
    remove(here.adapter)
    policy, roll = gateway.policy(), _Watched(Rolling(config, run, n, here.harness, process=process))
    assignment = Assignment(
        algorithm=algorithm,
        policy=policy,
        roll=roll,
        units=rooms(config).task.splits()["rollout"],
        start=run.generation(parent).adapter_used,
        out=here.adapter,
        work=here.training,
        seed=config.seed,
        say=lambda line: _note(here.path / "training.log", line),
        record=lambda figures: _note(here.curve, _json(figures)),
    )
    try:
        trained = _driver(algorithm)(assignment)
    except (TrainingError, TaskError, SandboxError) as error:
        return {"fault": f"{algorithm.name}: {error}", "unscored": roll.unrewarded}
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        return {"fault": f"{algorithm.name}: {str(error).splitlines()[0]}"}
    if not trained.tokens:  # the parent's weights again: gate and val would look at nothing new
        remove(here.adapter)
        return {"fault": f"{algorithm.name}: nothing to learn from: no question's samples differed in reward"}
    policy.use(here.adapter)  # the live weights have a name again
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
        "adapter_sha256": tree_sha256(here.adapter),
    }


@dataclass(slots=True)
class _Watched:
    """See training.protocol.Roll. `unrewarded`: the newest rollouts have no reward at all, since a budget or a verifier
    failed: nothing that the candidate could help."""

    roll: Roll
    unrewarded: bool = False

    def __call__(self, units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        made = self.roll(units, samples=samples, step=step, temperature=temperature)
        self.unrewarded = bool(made) and all(one.reward is None for one in made)
        return made


def inherit(run: RunDir, n: int, parent: int | None) -> str | None:
    """A new harness runs on its parent's adapter. Returns its hash; None for the base alone."""
    here = run.generation(n)
    remove(here.adapter)
    used = run.generation(parent).adapter_used if parent is not None else None
    if used is None:
        return None
    here.adapter.symlink_to(Path("..") / used.parent.name / used.name)
    return tree_sha256(used)


def _driver(algorithm: Algorithm) -> Any:
    from sia_runner.training import offline, online

    return {"online": online.train, "offline": offline.train}[algorithm.kind]


def _json(figures: Mapping[str, float]) -> str:
    """One line; what is no number (a KL that was not measured) is null."""
    return json.dumps({key: value if math.isfinite(value) else None for key, value in figures.items()})


def _note(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")
