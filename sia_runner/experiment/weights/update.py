"""A weights update: training on what the harness asked and the policy answered, so there is no second prompt."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from sia_runner.config.base import is_custom
from sia_runner.config.experiment import Experiment
from sia_runner.config.training import AlgorithmConfig, allowed_algorithms
from sia_runner.errors import TrainingError
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.execution import execute, verify_submission
from sia_runner.records import INFRASTRUCTURE_KINDS, Json, Trajectory
from sia_runner.sandbox.protocol import SandboxError
from sia_runner.stage_results import BuildResult
from sia_runner.store.run_directory import HarnessRunDir, RunDir, read_json, remove_tree, tree_sha256
from sia_runner.tasks.protocol import TaskError
from sia_runner.training.protocol import TrainingJob
from sia_runner.wire.grants import Grant, ModelsError, ProviderDown
from sia_runner.wire.policy import PolicyError


@dataclass(slots=True)
class HarnessRollouts:
    """The collector of rollouts: a sample is a run of the harness with seeds of its own, so it repeats exactly."""

    context: RunContext
    n: int
    harness: Path
    adapter: Path | None = None  # the adapter that answers if the policy is not `live`
    live: bool = True  # use the current weights, in the middle of a training
    candidate: str = ""  # account that pays; empty: the generation's
    process: int = 0  # number of this process, of several that roll out at the same time
    # Whether the newest rollouts have no reward at all: then a budget or a verifier failed, not the candidate.
    unrewarded: bool = field(default=False, init=False)

    def __call__(self, units: Sequence[str], *, samples: int, step: int, temperature: float) -> list[Trajectory]:
        """Return `samples` rollouts of each question in `units`."""
        run_sample = partial(self._run_sample, list(units), step=step, temperature=temperature)
        trajectories = list(chain.from_iterable(self.context.compute.map(run_sample, range(samples))))
        self.unrewarded = bool(trajectories) and all(trajectory.reward is None for trajectory in trajectories)
        return trajectories

    def _run_sample(self, units: list[str], sample: int, step: int, temperature: float) -> list[Trajectory]:
        context, task = self.context, self.context.task
        (round_,) = task.rounds("rollout", units=units)
        site = HarnessRunDir(context.run.generation(self.n).rollouts / f"{self.process}.{sample}")
        seed = f"{context.config.seed}:rollout {self.n} {step} {sample}"
        grant = Grant(
            "target",
            self.n,
            self.candidate or f"gen_{self.n}",
            "rollout",
            None,
            adapter=self.adapter,
            live=self.live,
            sample=sample,
            temperature=temperature,
            seed=seed,
        )
        execution = execute(context, grant, round_, site, self.harness, seed, context.config.task.limits.run)
        outcomes = verify_submission(context, site, execution.unanswered)
        keys = read_json(site.keys)
        remove_tree(site.path)
        calls = {keys[key]: sampled for key, sampled in execution.sampled.items() if key in keys}
        sign = 1.0 if task.higher_is_better else -1.0
        trajectories: list[Trajectory] = []
        for outcome in outcomes:
            reward = None if outcome.kind in INFRASTRUCTURE_KINDS else sign * outcome.value
            called = tuple(calls.get(outcome.unit, ()))
            trajectories.append(Trajectory(outcome.unit, sample, called, reward, outcome.kind))
        return trajectories


def check_adapters(config: Experiment, policy: Any = None) -> None:
    """Raise PolicyError if the base lacks what an algorithm adapts, or a policy's server takes no such adapter."""
    from sia_runner.policy.base_model import architecture
    from sia_runner.policy.engine import TINY_BASE
    from sia_runner.policy.lora import lora_config
    from sia_runner.policy.tinker_learner import model_settings
    from sia_runner.policy.vllm import VllmPolicy

    spec, algorithms = config.target_agent.policy, allowed_algorithms(config.trainer)
    if not algorithms or is_custom(spec.backend) or spec.base == TINY_BASE:
        return
    if spec.backend == "tinker":
        for algorithm in algorithms.values():
            model_settings(spec.base, algorithm.lora, config.seed)
        return
    model = architecture(spec.base)
    for algorithm in algorithms.values():
        try:
            lora = lora_config(algorithm.lora, model)
        except TrainingError as error:
            raise PolicyError(f"target_agent.policy.base={spec.base}: {error}") from None
        if not isinstance(policy, VllmPolicy):
            continue
        for path, module in model.named_modules():
            if path.rpartition(".")[2] in lora.target_modules and hasattr(module, "in_features"):
                policy.sampler.check_adapter(path, module.in_features, module.out_features, lora.r)
                break


def update_weights(
    context: RunContext, n: int, parent: int, algorithm: AlgorithmConfig, process: int = 0
) -> BuildResult:
    """Train on from the parent's adapter; afterwards gen_<n>/adapter is complete or absent.

    After a kill it resumes from the last checkpoint. Several processes may do this together: `process` is the number of
    this one, and the first one writes. Raises ProviderDown, and BudgetSpent if the run's budget is spent.
    """
    from sia_runner.training.drivers import train

    generation, gateway = context.run.generation(n), context.gateway
    if gateway is None:
        raise ModelsError("a weights update needs a policy: target_agent=policy")
    remove_tree(generation.adapter)
    if algorithm.shards > 1:  # the first process asks the server, and rolls out
        from sia_runner.policy.sharded_learner import ShardPolicy, share_base_sha256

        spec = context.config.target_agent.policy
        policy: Any = ShardPolicy(spec) if process else gateway.policy()
        if not process:
            share_base_sha256(spec, policy.base_sha256)
    else:
        policy = gateway.policy()
    roll = HarnessRollouts(context, n, generation.harness, process=process)
    job = TrainingJob(
        algorithm=algorithm,
        policy=policy,
        roll=roll,
        units=context.task.splits()["rollout"],
        start=context.run.generation(parent).resolved_adapter,
        out=generation.adapter,
        work=generation.training,
        seed=context.config.seed,
        say=lambda line: append_line(generation.path / "training.log", line),
        checkpointed=lambda step, state: _record_checkpoint(context, n, step, state),
        record=lambda figures: append_line(
            generation.curve,  # NaN, a KL that was not measured, becomes null
            json.dumps({key: value if math.isfinite(value) else None for key, value in figures.items()}),
        ),
    )
    try:
        with gateway.training_paid_by(Grant("learner", n, f"gen_{n}", "train", None)):
            trained = train(job)
    except (TrainingError, TaskError, SandboxError) as error:
        return BuildResult(f"{algorithm.name}: {error}", unscored=roll.unrewarded)
    except PolicyError as error:  # of the policy, not of the candidate: stop, so that the run can be resumed
        raise ProviderDown(str(error)) from None
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        return BuildResult(f"{algorithm.name}: {str(error).splitlines()[0]}")
    if not trained.tokens:  # the weights equal the parent's, so gate and val would measure nothing new
        remove_tree(generation.adapter)
        return BuildResult(f"{algorithm.name}: nothing to learn from: no question's samples differed in reward")
    policy.use(generation.adapter)  # the live weights are those of a saved adapter again
    return BuildResult("", training=trained, adapter_sha256=tree_sha256(generation.adapter))


def inherit_adapter(run: RunDir, n: int, parent: int | None) -> str | None:
    """Link the parent's adapter into the generation of a new harness; return its hash, or None for the base alone."""
    link, adapter = run.generation(n).adapter, run.adapter_of(parent)
    remove_tree(link)
    if adapter is None:
        return None
    link.symlink_to(Path("..") / adapter.parent.name / adapter.name)
    return tree_sha256(adapter)


def _record_checkpoint(context: RunContext, n: int, step: int, state: Json) -> None:
    """Record where a service keeps a checkpoint; those of this machine are in the generation's folder."""
    if path := state.get("state"):
        context.record_event("checkpoint", n=n, steps=step, path=path)


def append_line(path: Path, line: str) -> None:
    """Append a line to a log of the generation."""
    with path.open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")
