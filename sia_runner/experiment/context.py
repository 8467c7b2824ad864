"""The run context, passed to every stage: configuration, run directory and components; and the final test's reserve."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sia_runner.compute.protocol import Compute
from sia_runner.config.base import is_custom, new_component
from sia_runner.config.components import HostedProvider, SlurmComputeConfig, sandbox_arguments
from sia_runner.config.experiment import Experiment
from sia_runner.config.training import allowed_algorithms
from sia_runner.experiment.resources import resolved_compute
from sia_runner.proposers.protocol import Proposer, ProposerContext
from sia_runner.records import Usage
from sia_runner.sandbox.protocol import Sandbox, SandboxLimits
from sia_runner.selection.scoring import AcceptRule
from sia_runner.stage_results import RunResult
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.journal import JournalReader, find_incumbent, finished_generations
from sia_runner.store.run_directory import RunDir
from sia_runner.system import cache_dir
from sia_runner.tasks.protocol import Task
from sia_runner.tracking.protocol import Tracker
from sia_runner.wire.grants import ModelKey

if TYPE_CHECKING:
    from sia_runner.experiment.servers import RunServers
    from sia_runner.gateway.service import GatewayService
    from sia_runner.policy.shared_servers import SharedServers
    from sia_runner.policy.vllm_servers import ManagedServers
    from sia_runner.wire.policy import WarmupDialogue

T = TypeVar("T")

_RESERVE_MARGIN = 1.25  # a question of the test set may be longer than those measured
_BUDGET_SHARE = 0.25  # the share of the remaining budget for each process where several spend at once


class Components:
    """The components that a configuration names, each built on first use; threads share them. Raises ComponentError."""

    def __init__(self, config: Experiment) -> None:
        self.config = config
        self._built: dict[str, Any] = {}
        self._lock = threading.RLock()

    def _once(self, name: str, build: Callable[[], T]) -> T:
        try:
            return self._built[name]
        except KeyError:
            with self._lock:
                if name not in self._built:
                    self._built[name] = build()
                return self._built[name]

    @property
    def task(self) -> Task:
        """The task with its data and verifier."""
        return self._once("task", lambda: build_task(self.config.task, self.config.split_seed))

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox that harnesses run in."""
        config = self.config.sandbox
        return self._once("sandbox", lambda: new_component(config.target, Sandbox, **sandbox_arguments(config)))

    @property
    def proposer(self) -> Proposer:
        """The proposer of new harnesses."""
        return self._once("proposer", self._build_proposer)

    @property
    def compute(self) -> Compute:
        """The place where stages run."""
        return self._once("compute", lambda: _build(resolved_compute(self.config), Compute))

    @property
    def tracker(self) -> Tracker:
        """The tracker that is told of every generation."""
        return self._once("tracker", lambda: _build(self.config.tracker, Tracker))

    def build_all(self) -> None:
        """Build every component now, so that a class that cannot be loaded is named before a run starts."""
        _ = self.task, self.sandbox, self.proposer, self.compute, self.tracker

    @property
    def reference_harness(self) -> Path:
        """The harness that a run starts with: a folder, or one file."""
        with_model = self._with_model
        return with_model / "reference" if with_model else self.task.reference

    @property
    def _with_model(self) -> Path | None:
        """The task's folder of programs for harnesses that may call a model; None without one."""
        folder = self.task.folder / "with_model"
        return folder if self.config.calls_model and folder.is_dir() else None

    def _build_proposer(self) -> Proposer:
        config, task = self.config, self.task
        context = ProposerContext(
            task_name=task.name,
            task_folder=self._with_model or task.folder,
            reference=self.reference_harness,
            entry=task.entry,
            seed=config.seed,
            description=task.description,
            submission=getattr(config.task, "submission", ""),
            limits_seconds=config.task.limits.run,
            calls_model=config.calls_model,
        )
        return _build(config.meta_agent, Proposer, context)

    def sandbox_limits(self, seconds: float) -> SandboxLimits:
        """Return the sandbox limits of one job; `seconds` is its time limit."""
        box = self.config.sandbox
        return SandboxLimits(seconds, box.memory_mb, box.processes, box.disk_mb, box.file_mb, box.output_kb, box.cpus)


class RunContext(Components):
    """Everything that the stages of one run need. A process builds it once and passes it on."""

    def __init__(self, config: Experiment, run: RunDir) -> None:
        super().__init__(config)
        self.run = run
        # Adds an entry to the journal, in the process that holds it; a job's own context adds none.
        self.record_event: Callable[..., object] = _ignore_event

    def __reduce__(self) -> tuple[type["RunContext"], tuple[Experiment, RunDir]]:
        return RunContext, (self.config, self.run)  # a job builds components of its own

    @property
    def gateway(self) -> "GatewayService | None":
        """This process's gateway to models, opened on first use; None where the experiment calls no model."""
        return self._once("gateway", self._open_gateway)

    def close_gateway(self) -> None:
        """Close the gateway if it is open, and drop the weights it holds; a later stage opens a new one."""
        with self._lock:
            gateway: GatewayService | None = self._built.pop("gateway", None)
        if gateway:
            gateway.close()

    @property
    def servers(self) -> "RunServers | None":
        """The vLLM servers that all stages share, for the process of the run, which starts and ends them."""
        return self._once("servers", self._build_servers) if self.config.shares_servers else None

    def close_servers(self) -> None:
        """End the shared servers if they were started."""
        with self._lock:
            servers: RunServers | None = self._built.pop("servers", None)
        if servers:
            servers.close()

    def _build_servers(self) -> "RunServers":
        from sia_runner.experiment.servers import ServersHere, ServersInJob

        spec, folder = self.config.target_agent.policy, self.run.path / "servers"
        if isinstance(self.config.compute, SlurmComputeConfig):
            compute: Any = self.compute
            return ServersInJob(self.run.path, folder, self._record, compute, spec, self._largest_rank)
        return ServersHere(folder, self._record, spec, self._largest_rank)

    def _record(self, event: str, **fields: Any) -> None:
        self.record_event(event, **fields)

    @property
    def _largest_rank(self) -> int:
        return max((algorithm.lora.rank for algorithm in allowed_algorithms(self.config.trainer).values()), default=0)

    def _open_gateway(self) -> "GatewayService | None":
        config, meta, target = self.config, self.config.meta_provider, self.config.target_provider
        providers: dict[ModelKey, HostedProvider] = {}
        if config.proposer_calls_model and isinstance(meta, HostedProvider):
            providers["meta"] = meta
            providers |= {("meta", other.model): other for other in config.other_meta_providers}
        if config.calls_model and not config.has_policy and isinstance(target, HostedProvider):
            providers["target"] = target
        if not providers and not config.has_policy:
            return None
        from sia_runner.gateway.service import GatewayService

        together = any(algorithm.ranks > 1 for algorithm in allowed_algorithms(config.trainer).values())
        return GatewayService(
            providers,
            self.run.ledger,
            config.budget,
            cache_dir() / "calls",
            share=_BUDGET_SHARE if self.compute.apart or together else 1.0,
            held_back=FinalTestReserve(self),
            policy=self._policy_backend() if config.has_policy else None,
        )

    def _policy_backend(self) -> Any:
        from sia_runner.policy.backend import PolicyBackend, tinker_client
        from sia_runner.policy.engine import PolicyEngine, RequestBatcher
        from sia_runner.policy.remote import RequestForwarder
        from sia_runner.policy.vllm import VllmPolicy
        from sia_runner.wire.policy import PolicyService

        spec, served = self.config.target_agent.policy, self.run.path / "served"
        if is_custom(spec.backend):
            folder, keys = self.run.path / "policy", spec.model_extra or {}
            return PolicyBackend(spec, new_component(spec.backend, PolicyService, spec, folder, **keys))

        def engine() -> PolicyEngine:  # loads the weights, so it is called on first use
            return PolicyEngine(spec, cache_dir(), lambda: warm_up_dialogues(self.task))

        if spec.backend == "tinker":
            from sia_runner.policy.tinker import TinkerPolicy

            return PolicyBackend(spec, RequestForwarder(lambda: TinkerPolicy(spec, tinker_client(spec))))
        if spec.backend == "vllm" and spec.base_url:
            return PolicyBackend(spec, RequestForwarder(lambda: VllmPolicy(spec, served, engine)))
        if spec.backend == "vllm":
            servers = self._vllm_servers()
            here = not isinstance(self.config.compute, SlurmComputeConfig)
            service = RequestForwarder(lambda: VllmPolicy(spec, served, engine, servers), servers)
            return PolicyBackend(spec, service, starts_here=here)
        return PolicyBackend(spec, RequestBatcher(engine))

    def _vllm_servers(self) -> "ManagedServers | SharedServers":
        """Return the shared servers' client, or servers that this process starts for itself."""
        from sia_runner.policy.shared_servers import SharedServers
        from sia_runner.policy.vllm_servers import ManagedServers

        spec, folder = self.config.target_agent.policy, self.run.path / "servers"
        if self.config.shares_servers:
            return SharedServers(folder, spec.vllm.startup)
        return ManagedServers(spec, self._largest_rank, folder, self._say_of_servers)

    def _say_of_servers(self, line: str) -> None:
        """Tell of a server that ended: to the journal, where this process holds it, and to the user."""
        self.record_event("server", line=line)
        print(line, file=sys.stderr, flush=True)


def _ignore_event(event: str, **fields: Any) -> None:
    pass


class FinalTestReserve:
    """The usage reserved for the test runs of incumbent and baseline; zero until there is an incumbent to test."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._journal_size = -1  # bytes of the journal that `_needed` is based on
        self._needed = Usage()

    def __call__(self) -> Usage:
        """Return the reserve, measured again whenever the journal has grown; called before each model call."""
        journal = self._context.run.journal
        size = journal.stat().st_size if journal.is_file() else 0
        if size != self._journal_size:
            needed = self._measure(finished_generations(JournalReader(journal))) if size else Usage()
            self._needed, self._journal_size = needed, size
        return self._needed

    def _measure(self, generations: list[GenerationRecord]) -> Usage:
        task, best, total = self._context.task, find_incumbent(generations), Usage()
        if best is None or not task.has_test:
            return total
        test, select = (sum(len(fold.questions) for fold in task.rounds(purpose)) for purpose in ("test", "select"))
        factor = _RESERVE_MARGIN * test / max(1, select)
        for generation in generations:
            if generation.n in (best, generations[0].n) and "run" in generation.steps:
                usage = RunResult.from_json(generation.steps["run"]).usage
                total += Usage(usage.usd * factor, int(usage.tokens * factor), int(usage.calls * factor) + 1)
        return total


def accept_rule(config: Experiment) -> str | AcceptRule:
    """Return the name of the accept rule, or the user's own rule. Raises ComponentError."""
    rule, keys = config.search.accept.rule, config.search.accept.model_extra or {}
    return new_component(rule, AcceptRule, **keys) if is_custom(rule) else rule


def build_task(config: Any, split_seed: int) -> Task:
    """Return the task that a section `task` of the configuration names. Raises ComponentError."""
    return new_component(config.target, Task, config, split_seed, cache_dir())


def warm_up_dialogues(task: Task) -> list["WarmupDialogue"]:
    """Return the dialogues that base=tiny is pre-trained on."""
    from sia_runner.wire.policy import WarmupDialogue

    return [WarmupDialogue([{"role": "user", "content": question}], answer) for question, answer in task.dialogues()]


def _build(config: Any, protocol: type, *arguments: Any) -> Any:
    keys = config.model_dump(exclude={"name", "target", "provider"})
    return new_component(config.target, protocol, *arguments, **keys)
