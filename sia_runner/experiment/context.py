"""The components of an experiment, built from its configuration lazily and once per process.

It also holds the budget reserve for the final test, which the gateway's ledger asks for before each model call."""

import importlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_runner.compute.protocol import Compute
from sia_runner.config.base import NamedConfig
from sia_runner.config.components import HostedProvider, sandbox_arguments
from sia_runner.config.experiment import Experiment, check_experiment
from sia_runner.config.training import allowed_algorithms
from sia_runner.errors import RunnerError
from sia_runner.proposers.protocol import Proposer, ProposerContext
from sia_runner.records import Usage
from sia_runner.sandbox.protocol import Sandbox, SandboxLimits
from sia_runner.store.journal import FinishedGeneration, JournalReader, find_incumbent, finished_generations
from sia_runner.store.run_directory import RunDir
from sia_runner.system import cache_dir
from sia_runner.tasks.protocol import Task
from sia_runner.tracking.protocol import Tracker
from sia_runner.wire.grants import ModelAccess, Role

if TYPE_CHECKING:
    from sia_runner.wire.policy import WarmupDialogue

_RESERVE_MARGIN = 1.25  # a question of the test set may be longer than those measured


class FinalTestReserve:
    """The usage reserved for the test runs of incumbent and baseline; the ledger calls it before each model call.

    It is zero until a generation is scored: until then there is nothing to test, and only `budget.reserve` applies.
    """

    def __init__(self, config: Experiment, run: RunDir) -> None:
        self._config, self._run = config, run
        self._journal_size = -1  # bytes of the journal that `_needed` is based on
        self._needed = Usage()

    def __call__(self) -> Usage:
        journal = self._run.journal
        size = journal.stat().st_size if journal.is_file() else 0
        if size != self._journal_size:
            self._needed, self._journal_size = (
                self._measure(finished_generations(JournalReader(journal))) if size else Usage(),
                size,
            )
        return self._needed

    def _measure(self, generations: list[FinishedGeneration]) -> Usage:

        task = build_components(self._config).task
        if not task.has_test:
            return Usage()
        test_questions = sum(len(round_.questions) for round_ in task.rounds("test"))
        select_questions = sum(len(round_.questions) for round_ in task.rounds("select"))
        best = find_incumbent(generations)
        to_test = {best, generations[0].n} if best is not None else set()
        factor = _RESERVE_MARGIN * test_questions / max(1, select_questions)
        return sum((_scaled_usage(g, factor) for g in generations if g.n in to_test), Usage())


def _scaled_usage(generation: FinishedGeneration, factor: float) -> Usage:
    usage = generation.steps.get("run", {}).get("usage")
    if not usage:
        return Usage()
    return Usage(usage["usd"] * factor, int(usage["tokens"] * factor), int(usage["calls"] * factor) + 1)


_BUDGET_SHARE = 0.25  # the share of the remaining budget for each process where several spend at once


class ComponentError(RunnerError):
    """A configured class cannot be loaded; the message is one line for the user (exit code 2)."""


@dataclass(frozen=True, slots=True)
class Components:
    """The components of one experiment."""

    task: Task
    sandbox: Sandbox
    proposer: Proposer
    compute: Compute
    tracker: Tracker


def build_components(config: Experiment) -> Components:
    """Return the components that `config` names. Raises RoomError."""
    return _build_components(config.model_dump_json(by_alias=True))


@lru_cache(maxsize=4)
def _build_components(config_json: str) -> Components:
    config = check_experiment(json.loads(config_json))
    task: Task = load_class(config.task.target)(config.task, config.split_seed, cache_dir())
    start = _start_folder(task, config)
    context = ProposerContext(
        task_name=task.name,
        task_folder=start,
        reference=_reference_path(task, start),
        entry=task.entry,
        seed=config.seed,
        description=task.description,
        submission=getattr(config.task, "submission", ""),
        limits_seconds=config.task.limits.run,
        calls_model=config.calls_model,
    )
    return Components(
        task=task,
        sandbox=load_class(config.sandbox.target)(**sandbox_arguments(config.sandbox)),
        proposer=load_class(config.meta_agent.target)(context, **_own_keys(config.meta_agent)),
        compute=load_class(config.compute.target)(**_own_keys(config.compute)),
        tracker=load_class(config.tracker.target)(**_own_keys(config.tracker)),
    )


def _start_folder(task: Task, config: Experiment) -> Path:
    """Return the folder of programs that harnesses start from.

    This is the task's `with_model/` where the harness may call a model and the task has that folder.
    """
    with_model = task.folder / "with_model"
    return with_model if config.calls_model and with_model.is_dir() else task.folder


def reference_harness(config: Experiment) -> Path:
    """Return the harness that a run starts with: a folder, or one file."""
    task = build_components(config).task
    return _reference_path(task, _start_folder(task, config))


def _reference_path(task: Task, start: Path) -> Path:
    return task.reference if start == task.folder else start / "reference"


def open_gateway(config: Experiment, run: RunDir) -> ModelAccess | None:
    """Return this process's gateway to models for the run; None where the experiment calls no model."""
    return _open_gateway(config.model_dump_json(by_alias=True), run.path)


def close_gateway(config: Experiment, run: RunDir) -> None:
    """Close the gateway of this run in this process; a later stage in this process opens a new one."""
    gateway = open_gateway(config, run)
    if gateway:
        gateway.close()
    _open_gateway.cache_clear()


@lru_cache(maxsize=4)
def _open_gateway(config_json: str, path: Path) -> ModelAccess | None:
    config = check_experiment(json.loads(config_json))
    providers: dict[Role, HostedProvider] = {}
    meta, target = config.meta_provider, config.target_provider
    if config.proposer_calls_model and isinstance(meta, HostedProvider):
        providers["meta"] = meta
    if config.calls_model and not config.has_policy and isinstance(target, HostedProvider):
        providers["target"] = target
    if not providers and not config.has_policy:
        return None
    from sia_runner.gateway.service import GatewayService

    run = RunDir(path)
    policy = _policy_backend(config, run) if config.has_policy else None
    return GatewayService(
        providers,
        run.ledger,
        config.budget,
        cache_dir() / "calls",
        share=_BUDGET_SHARE if build_components(config).compute.apart or _trained_together(config) else 1.0,
        held_back=FinalTestReserve(config, run),
        policy=policy,
    )


def _trained_together(config: Experiment) -> bool:
    return any(algorithm.processes > 1 for algorithm in allowed_algorithms(config.trainer).values())


def _policy_backend(config: Experiment, run: RunDir) -> Any:
    """Return the policy behind the gateway. The weights are loaded on first use."""
    from sia_runner.policy.backend import PolicyBackend
    from sia_runner.policy.engine import PolicyEngine, RequestBatcher
    from sia_runner.policy.vllm import RequestForwarder, VllmPolicy

    spec, task = config.target_agent.policy, build_components(config).task

    def engine() -> PolicyEngine:
        return PolicyEngine(spec, cache_dir(), lambda: warm_up_dialogues(task))

    if spec.backend == "vllm":
        return PolicyBackend(spec, RequestForwarder(lambda: VllmPolicy(spec, run.path / "served", engine)))
    return PolicyBackend(spec, RequestBatcher(engine))


def warm_up_dialogues(task: Task) -> list["WarmupDialogue"]:
    """Return the dialogues that base=tiny is pre-trained on."""
    from sia_runner.wire.policy import WarmupDialogue

    return [WarmupDialogue([{"role": "user", "content": question}], answer) for question, answer in task.dialogues()]


def sandbox_limits(config: Experiment, seconds: float) -> SandboxLimits:
    """Return the sandbox limits of one job; `seconds` is its time limit."""
    sandbox = config.sandbox
    return SandboxLimits(
        seconds, sandbox.memory_mb, sandbox.processes, sandbox.disk_mb, sandbox.file_mb, sandbox.output_kb, sandbox.cpus
    )


def load_class(target: str) -> Any:
    """Return the class that Hydra's ``_target_`` names. Raises RoomError."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ComponentError(f"_target_={target} cannot be loaded: {error}") from error


def _own_keys(component: NamedConfig) -> dict[str, Any]:
    return component.model_dump(exclude={"name", "target", "provider"})
