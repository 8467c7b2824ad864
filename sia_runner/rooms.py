"""Building the components of an experiment from its configuration, lazily and once per process."""

import importlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_runner.agents.protocol import Context, Proposer
from sia_runner.compute.protocol import Compute
from sia_runner.config import Experiment, check
from sia_runner.ground.resources import cache_dir
from sia_runner.models.protocol import Models, Role
from sia_runner.run.spending import Reserve
from sia_runner.rundir import RunDir
from sia_runner.sandbox.protocol import Limits, Sandbox
from sia_runner.schema.parts import Named
from sia_runner.schema.provider import Hosted
from sia_runner.schema.sandbox import own_keys
from sia_runner.schema.training import allowed
from sia_runner.tasks.protocol import Task
from sia_runner.tracking.protocol import Tracker

if TYPE_CHECKING:
    from sia_runner.models.policy.ask import Dialogue


_SHARE = 0.25  # the share of the remaining budget for each process where several spend at once


class RoomError(Exception):
    """A configured class cannot be loaded; the message is one line for the user (exit code 2)."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """The components of one experiment."""

    task: Task
    sandbox: Sandbox
    proposer: Proposer
    compute: Compute
    tracker: Tracker


def rooms(config: Experiment) -> Rooms:
    """Return the components that `config` names. Raises RoomError."""
    return _build(config.model_dump_json(by_alias=True))


@lru_cache(maxsize=4)
def _build(config_json: str) -> Rooms:
    config = check(json.loads(config_json))
    task: Task = locate(config.task.target)(config.task, config.split_seed, cache_dir())
    start = _start(task, config)
    context = Context(
        task_name=task.name,
        task_folder=start,
        reference=_reference(task, start),
        entry=task.entry,
        seed=config.seed,
        description=task.description,
        submission=getattr(config.task, "submission", ""),
        limits_seconds=config.task.limits.run,
        calls_model=config.calls_model,
    )
    return Rooms(
        task=task,
        sandbox=locate(config.sandbox.target)(**own_keys(config.sandbox)),
        proposer=locate(config.meta_agent.target)(context, **_own_keys(config.meta_agent)),
        compute=locate(config.compute.target)(**_own_keys(config.compute)),
        tracker=locate(config.tracker.target)(**_own_keys(config.tracker)),
    )


def _start(task: Task, config: Experiment) -> Path:
    """Return the folder of programs that harnesses start from.

    This is the task's `with_model/` where the harness may call a model and the task has that folder.
    """
    with_model = task.folder / "with_model"
    return with_model if config.calls_model and with_model.is_dir() else task.folder


def reference(config: Experiment) -> Path:
    """Return the harness that a run starts with: a folder, or one file."""
    task = rooms(config).task
    return _reference(task, _start(task, config))


def _reference(task: Task, start: Path) -> Path:
    return task.reference if start == task.folder else start / "reference"


def models(config: Experiment, run: RunDir) -> Models | None:
    """Return this process's gateway to models for the run; None where the experiment calls no model."""
    return _models(config.model_dump_json(by_alias=True), run.path)


def close_models(config: Experiment, run: RunDir) -> None:
    """Close the gateway of this run in this process; a later stage in this process opens a new one."""
    gateway = models(config, run)
    if gateway:
        gateway.close()
    _models.cache_clear()


@lru_cache(maxsize=4)
def _models(config_json: str, path: Path) -> Models | None:
    config = check(json.loads(config_json))
    providers: dict[Role, Hosted] = {}
    meta, target = config.meta_provider, config.target_provider
    if config.proposer_calls_model and isinstance(meta, Hosted):
        providers["meta"] = meta
    if config.calls_model and not config.has_policy and isinstance(target, Hosted):
        providers["target"] = target
    if not providers and not config.has_policy:
        return None
    from sia_runner.models.room import RunModels

    run = RunDir(path)
    policy = _policy(config, run) if config.has_policy else None
    return RunModels(
        providers,
        run.ledger,
        config.budget,
        cache_dir() / "calls",
        share=_SHARE if rooms(config).compute.apart or _trained_together(config) else 1.0,
        held_back=Reserve(config, run),
        policy=policy,
    )


def _trained_together(config: Experiment) -> bool:
    return any(algorithm.processes > 1 for algorithm in allowed(config.trainer).values())


def _policy(config: Experiment, run: RunDir) -> Any:
    """Return the settings of the policy and its engine. The weights are loaded on first use."""
    from sia_runner.models.policy.batching import Batching
    from sia_runner.models.policy.engine import Engine
    from sia_runner.models.policy.remote import Remote
    from sia_runner.models.policy.vllm import Vllm

    spec, task = config.target_agent.policy, rooms(config).task

    def engine() -> Engine:
        return Engine(spec, cache_dir(), lambda: warming_texts(task))

    if spec.backend == "vllm":
        return spec, Remote(lambda: Vllm(spec, run.path / "served", engine))
    return spec, Batching(engine)


def warming_texts(task: Task) -> list["Dialogue"]:
    """Return the dialogues that base=tiny is pre-trained on."""
    from sia_runner.models.policy.ask import Dialogue

    return [Dialogue([{"role": "user", "content": question}], answer) for question, answer in task.dialogues()]


def limits(config: Experiment, seconds: float) -> Limits:
    """Return the sandbox limits of one job; `seconds` is its time limit."""
    sandbox = config.sandbox
    return Limits(
        seconds, sandbox.memory_mb, sandbox.processes, sandbox.disk_mb, sandbox.file_mb, sandbox.output_kb, sandbox.cpus
    )


def locate(target: str) -> Any:
    """Return the class that Hydra's ``_target_`` names. Raises RoomError."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise RoomError(f"_target_={target} cannot be loaded: {error}") from error


def _own_keys(component: Named) -> dict[str, Any]:
    return component.model_dump(exclude={"name", "target", "provider"})
