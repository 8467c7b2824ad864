"""The typed schema of an experiment defines every key, unit and bound, and refuses illegal combinations."""

from collections.abc import Iterator
from itertools import chain
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, Tag, model_validator

from sia_runner.config.base import (
    NAME_OR_CLASS,
    ClassPath,
    ConfigSection,
    CustomComponentConfig,
    FractionBelowOne,
    NamedConfig,
    NonEmptyText,
    PositiveInt,
    schema_by_class,
)
from sia_runner.config.components import (
    ComputeConfig,
    HostedProvider,
    OfflineProvider,
    ProviderConfig,
    SandboxConfig,
    SlurmComputeConfig,
    TrackerConfig,
)
from sia_runner.config.migration import MOVED_CLASSES
from sia_runner.config.task import AggregateVerifier, TaskConfig
from sia_runner.config.training import (
    TINKER_ALPHA,
    AlgorithmConfig,
    AnyPolicyConfig,
    LeverRule,
    PolicyConfig,
    TrainerConfig,
    VllmSettings,
    allowed_algorithms,
)


def _training_refusals(e: "Experiment") -> Iterator[str]:
    agent, trainer, algorithms = (
        f"target_agent={e.target_agent.name}",
        e.trainer,
        allowed_algorithms(e.trainer).values(),
    )
    if trainer.kind != "none" and not e.calls_model:
        trains = f"trainer={trainer.name} trains the model that a harness calls"
        yield f"{trains}, but {agent} calls none; allowed with it: trainer=none"
    spec, key, vllm = e.target_agent.policy, "target_agent.policy", "target_agent.policy.backend=vllm"
    if spec.backend == "peft" and spec.base_url is not None:
        yield f"{key}.base_url={spec.base_url} is a vLLM server's, but {key}.backend=peft uses no server"
    processes = max((algorithm.processes for algorithm in algorithms), default=1)
    if spec.backend == "vllm":
        if spec.base_url is not None and not spec.base_url.startswith(("http://", "https://")):
            what = "the server's address up to and including /v1 (http://… or https://…)"
            yield f"{vllm} needs as {key}.base_url {what}, or null to start its own; given: {spec.base_url}"
        changed = [f"{key}.vllm.{name}" for name, value in spec.vllm if value != getattr(VllmSettings(), name)]
        if spec.base_url is not None and changed:
            why = f"of servers that the run starts; not allowed with {key}.base_url={spec.base_url}"
            yield f"{', '.join(changed)}: {why}"
        if spec.base == "tiny":
            allowed = f"allowed with {vllm}: a folder or hub id that the server serves under the same name"
            yield f"{key}.base=tiny is built by the runner, so no server has it; {allowed}"
        if modules := sorted(name for algorithm in algorithms for name in algorithm.lora.save):
            why = "trains whole modules, which vLLM cannot load with an adapter"
            yield f"trainer.lora.save={modules} {why}; allowed with {vllm}: []"
        if processes > 1:
            why = f"would each load an adapter into the server of {vllm}, which answers with one"
            yield f"trainer.processes={processes} {why}; allowed with it: 1"
    if any(algorithm.overlap for algorithm in algorithms) and spec.backend in ("peft", "tinker"):
        reason = "what answers is what is trained" if spec.backend == "peft" else "a service answers with the newest"
        why = f"rolls out by weights that are one step older, but with {key}.backend={spec.backend} {reason}"
        yield f"trainer.overlap=1 {why}; allowed with it: 0"
    if spec.backend == "tinker":
        yield from _tinker_refusals(e)
    shards = max((algorithm.shards for algorithm in algorithms), default=1)
    if shards > 1 and spec.backend != "vllm":
        why = "divides the base over processes, none of which can answer from it"
        yield f"trainer.shards={shards} {why}; allowed with {key}.backend={spec.backend}: 1, or take policy=vllm"
    if any(algorithm.processes > 1 < algorithm.shards for algorithm in algorithms):
        yield f"trainer.processes={processes} copies the base, trainer.shards={shards} divides it; allowed: one of both"
    yield from _server_refusals(e)
    yield from _job_refusals(e, *max((processes, "trainer.processes"), (shards, "trainer.shards")))


def _server_refusals(e: "Experiment") -> Iterator[str]:
    """Refuse vLLM servers where the run could not start them, or would start them several times."""
    spec, compute, key = e.target_agent.policy, e.compute, "target_agent.policy.vllm.owner"
    if not e.has_policy or spec.backend != "vllm" or spec.base_url is not None:
        return
    if not e.shares_servers:
        side_by_side = f"search.parallel_candidates={e.search.parallel_candidates}"
        if compute.name == "local" and e.search.parallel_candidates > 1:
            yield f"{key}=stage starts servers for each of {side_by_side} on the same GPUs; allowed with it: {key}=run"
        return
    if not _is_shipped(compute):
        why = "the run cannot know where your compute class runs stages"
        yield f"{key}=run: {why}; allowed with compute._target_={compute.target}: {key}=stage"
    if isinstance(compute, SlurmComputeConfig) and compute.resources.servers.run_in == "driver":
        yield f"compute.resources.servers.run_in=driver: servers of {key}=run are a job; allowed: job"


def _job_refusals(e: "Experiment", ranks: int, key: str) -> Iterator[str]:
    """Refuse a job of the train stage that cannot hold the processes of an update."""
    if not isinstance(e.compute, SlurmComputeConfig):
        return
    train = e.compute.resources.of("train")
    gpus, nodes = train.gpus, train.nodes or 1
    if ranks % nodes:
        yield f"{key}={ranks} cannot be dealt evenly to compute.resources.train.nodes={nodes}"
    if nodes > 1 and train.run_in == "driver":
        yield f"compute.resources.train.nodes={nodes} needs a job; allowed with it: compute.resources.train.run_in=job"
    if isinstance(gpus, int) and 0 < gpus < ranks // nodes:
        each = f"{ranks // nodes} GPUs" + (f" on each of {nodes} nodes" if nodes > 1 else "")
        allowed = f"allowed: {each}, or 0 with target_agent.policy.device=cpu"
        yield f"{key}={ranks} needs a GPU for each, but compute.resources.train.gpus={gpus}; {allowed}"
    for kind in ("default", "policy", "propose", "gate", "run", "verify", "test", "servers"):
        if (getattr(e.compute.resources, kind).nodes or 1) > 1:
            yield f"compute.resources.{kind}.nodes: only an update runs on several nodes; allowed: train.nodes"


def _tinker_refusals(e: "Experiment") -> Iterator[str]:
    """Refuse by name what the Tinker protocol cannot say, before anything is paid for."""
    spec, key, tinker = e.target_agent.policy, "target_agent.policy", "target_agent.policy.backend=tinker"
    if spec.trust_base:
        yield f"{key}.trust_base=true is for a base here; {tinker} takes its own adapters only; allowed with it: false"
    if spec.base == "tiny":
        yield f"{key}.base=tiny is built by the runner, so no service has it; allowed with {tinker}: one of its bases"
    if spec.base_url is not None and not spec.base_url.startswith(("http://", "https://")):
        yield f"{key}.base_url={spec.base_url}: must begin with http:// or https://; null is the hosted service"
    fixed = e.trainer if isinstance(e.trainer, AlgorithmConfig) else None
    if fixed is not None and fixed.algorithm == "ppo":
        others = "grpo, entropic, reinforce, best_of_n, dpo"
        yield f"trainer=ppo needs a value head, which the Tinker protocol has not; allowed with {tinker}: {others}"
    for algorithm in allowed_algorithms(e.trainer).values():
        lora = algorithm.lora
        section = "trainer" if fixed is not None else f"trainer.algorithms.{algorithm.algorithm}"
        for name, value, allowed in (
            ("lora.alpha", lora.alpha, TINKER_ALPHA),  # the protocol has no field for it
            ("lora.dropout", lora.dropout, 0),
            ("processes", algorithm.processes, 1),
            ("temperature", algorithm.temperature if algorithm.kind == "online" else 1, 1),  # of its logprobs, always
        ):
            if value != allowed:
                why = "is nothing that the Tinker protocol can say"
                yield f"{section}.{name}={value:g} {why}; allowed with {tinker}: {allowed}"
        for name in (name for name in lora.save if name != "lm_head"):
            why = f"names {name}, which no Tinker service trains"
            yield f"{section}.lora.save={lora.save} {why}; allowed with {tinker}: [], or [lm_head]"


def _model_refusals(e: "Experiment") -> Iterator[str]:
    agent, provider, verifier = e.target_agent, f"provider={e.target_provider.name}", e.task.metric.verifier
    if e.search.accept.rule == "mcnemar" and verifier in get_args(AggregateVerifier):
        aggregate = f"task.metric.verifier={verifier} is a score of all; allowed with it: ladder, bootstrap"
        yield f"search.accept.rule=mcnemar counts single questions, but {aggregate}"
    if agent.kind == "model" and e.target_provider.kind == "offline":
        offline = f"{provider} serves none; give provider=…, or target_agent=script"
        yield f"target_agent={agent.name} calls a model, but {offline}"
    if e.task.needs_model and not e.calls_model:
        offline = f"{provider} with target_agent={agent.name} serves none; give provider=… (see --help)"
        yield f"task={e.task.name} cannot be answered without a model, but {offline}"
    if e.has_policy and e.target_agent.policy.base == "tiny" and not getattr(e.task, "gold_answers", True):
        warmed = f"target_agent.policy.base=tiny is warmed on gold answers, and task={e.task.name} has none"
        yield f"{warmed}; allowed with it: policy=smollm2, or another base (a folder or hub id)"
    for name, part in (("meta_agent", e.meta_agent), ("sandbox", e.sandbox), ("compute", e.compute)):
        if part.target in MOVED_CLASSES:
            yield f"{name}._target_={part.target}: moved; use {MOVED_CLASSES[part.target]}"
    is_model = e.meta_agent.target.startswith(("sia_runner.proposers.llm.", "sia_runner.proposers.guests."))
    if is_model and e.meta_provider.kind == "offline":
        allowed = "give provider=… or provider@meta_agent.provider=…, or meta_agent=recipes, which needs none"
        offline = f"provider={e.meta_provider.name} serves none; {allowed}"
        yield f"meta_agent={e.meta_agent.name} is a language model, but {offline}"


def _search_refusals(e: "Experiment") -> Iterator[str]:
    yield from _several_models_refusals(e)
    if e.search.name == "pareto" and not hasattr(e.task, "splits"):
        yield f"search=pareto compares candidates on dev questions, but task={e.task.name} has none; use a native task"
    width = f"search.proposals_per_generation={e.search.proposals_per_generation}"
    if e.search.proposals_per_generation > 1 and not hasattr(e.task, "splits"):
        yield f"{width} chooses among proposals on dev questions, but task={e.task.name} has none; allowed with it: 1"
    parallel = f"search.parallel_candidates={e.search.parallel_candidates}"
    if e.search.parallel_candidates == 1:
        return
    if e.search.proposals_per_generation > 1:
        yield f"{parallel} writes proposals side by side already; allowed with it: search.proposals_per_generation=1"
    if e.trainer.kind != "none":
        update = f"an update of the weights (trainer={e.trainer.name}) starts from the incumbent's"
        yield f"{parallel} goes on before verdicts are known, but {update}; allowed with it: trainer=none"
    if e.approve != "none":
        yield f"{parallel} does not wait, but approve={e.approve} waits for a person; allowed: approve=none"


def _several_models_refusals(e: "Experiment") -> Iterator[str]:
    models = e.search.proposer_models
    if not models:
        return
    key, hosted = f"search.proposer_models={models}", e.meta_provider
    if len(set(models)) < max(2, len(models)):
        yield f"{key}: allowed are two or more different models, or [] for the provider's own"
    if not e.proposer_calls_model or not isinstance(hosted, HostedProvider):
        yield f"{key}, but meta_agent={e.meta_agent.name} calls no model; allowed with it: []"
    elif hosted.prices is not None:
        where = "meta_agent.provider" if getattr(e.meta_agent, "provider", None) else "provider"
        why = "are those of one model, and what each one gains per dollar is compared"
        yield f"{where}.prices {why}; allowed with {key}: null, for the prices that litellm knows"


def _control_refusals(e: "Experiment") -> Iterator[str]:
    control, mode = e.control, getattr(e.trainer, "mode", "")
    expected = "SIA-H" if control is None else f"control-{control.arm}"
    if e.trainer.kind == "none" and mode != expected:
        yield f"trainer.mode={mode} does not fit the key control, which +experiment=control sets; allowed: {expected}"
    if control is None:
        return
    if e.trainer.kind != "none":
        yield f"control.arm={control.arm} trains nothing, but trainer={e.trainer.name}; allowed with it: trainer=none"
    if control.like is None and control.usd is control.tokens is control.seconds is None:
        yield "control has no budget; give control.like=RUN_DIR, or control.usd, control.tokens, control.seconds"
    for key in ("proposals_per_generation", "parallel_candidates"):
        if (value := getattr(e.search, key)) > 1:
            yield f"search.{key}={value} with control.arm={control.arm}; allowed with it: 1"
    if models := e.search.proposer_models:
        yield f"search.proposer_models={models} is feedback, which control.arm={control.arm} has not; allowed: []"
    if not hasattr(e.task, "splits"):
        yield f"control.arm={control.arm} is compared on test, but task={e.task.name} has none; use a native task"


class RecipesConfig(NamedConfig):
    """Settings of `recipes`: offline search over harness recipes, breadth first, then around the incumbent."""

    target: Literal["sia_runner.proposers.recipes.Recipes"] = Field(alias="_target_")
    trials: PositiveInt = 8  # harnesses tried on dev questions per generation
    rungs: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]  # shares of a trial, increasing
    keep_fraction: Annotated[float, Field(gt=0, le=1)] = 0.34  # share of the trials that reaches the next rung
    trial_questions: PositiveInt | None = None  # dev questions per trial; null: all


class ReplayConfig(NamedConfig):
    """Settings of `replay`, which proposes the harnesses of a folder (gen_1, gen_2, ...) in order."""

    target: Literal["sia_runner.proposers.replay.Replay"] = Field(alias="_target_")
    dir: Annotated[str, Field(min_length=1)]  # the folder


class LlmConfig(NamedConfig):
    """Settings of `llm`: a language model with tools, meta-agent in generation 1, feedback agent afterwards."""

    target: Literal["sia_runner.proposers.llm.Llm"] = Field(alias="_target_")
    provider: ProviderConfig | None = None  # null: the experiment's provider
    turns: PositiveInt = 40  # model calls per proposal
    context_kb: Annotated[int, Field(ge=16)] = 256  # KiB of JSON of one request; older tool results are cut first
    trials: NonNegativeInt = 6  # runs on dev questions per proposal
    trial_questions: PositiveInt = 8  # dev questions of one such run
    repairs: NonNegativeInt = 3  # invalid proposals returned with the reason before the candidate fails
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None  # null: the provider's own default
    max_tokens: PositiveInt = 16_384  # completion bound of one call


class GuestAgentConfig(NamedConfig):
    """Settings of an agent of another package, which runs in our sandbox and reaches only the gateway."""

    target: Literal[
        "sia_runner.proposers.guests.ClaudeCode",
        "sia_runner.proposers.guests.OpenHands",
        "sia_runner.proposers.guests.PydanticAI",
    ] = Field(alias="_target_")
    provider: ProviderConfig | None = None  # null: the experiment's provider
    turns: PositiveInt = 40  # model calls per proposal; the gateway refuses more
    seconds: PositiveFloat = 900  # wall time of one proposal, its trials included
    trials: NonNegativeInt = 6  # runs on dev questions per proposal
    trial_questions: PositiveInt = 8  # dev questions of one such run


class CustomProposerConfig(CustomComponentConfig):
    """Settings of a user's own proposer, which may call the provider's model."""

    provider: ProviderConfig | None = None  # null: the experiment's provider


_PROPOSERS = {
    "sia_runner.proposers.recipes.Recipes": "Recipes",
    "sia_runner.proposers.replay.Replay": "Replay",
    "sia_runner.proposers.llm.Llm": "Llm",
    "sia_runner.proposers.guests.": "Guest",
}
MetaAgentConfig = Annotated[
    Annotated[RecipesConfig, Tag("Recipes")]
    | Annotated[ReplayConfig, Tag("Replay")]
    | Annotated[LlmConfig, Tag("Llm")]
    | Annotated[GuestAgentConfig, Tag("Guest")]
    | Annotated[CustomProposerConfig, Tag("Custom")],
    schema_by_class("_target_", _PROPOSERS, other="Custom"),
]


class TargetAgentConfig(NamedConfig):
    """The kind of harness, and the model that it calls."""

    # `script` calls no model, `model` calls the provider's, `policy` calls one whose weights can be trained;
    # `auto`: policy if a trainer is named, model if there is a provider, else script
    kind: Literal["auto", "script", "model", "policy"]
    provider: ProviderConfig | None = None  # null: the experiment's provider
    policy: AnyPolicyConfig = Field(default_factory=PolicyConfig)


class AcceptConfig(ConfigSection):
    """The rule by which a candidate replaces the incumbent."""

    rule: Annotated[  # docs/architecture.md#acceptance describes each
        Annotated[Literal["ladder", "mcnemar", "bootstrap"], Tag("Name")] | Annotated[ClassPath, Tag("Class")],
        NAME_OR_CLASS,
    ]
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05  # mcnemar, bootstrap: one-sided significance level


class CustomAcceptConfig(AcceptConfig):
    """An accept rule of the user's own: each further key is an argument of its constructor."""

    model_config = ConfigDict(extra="allow")


class SearchConfig(ConfigSection):
    """The choice of the candidate that a proposal extends, the number of proposals, and when to stop."""

    # greedy: the incumbent; last: the newest scored candidate, as SIA does; archive: sampled by score and novelty;
    # pareto: sampled among those that are best on some dev questions; islands: the best of the generation's island
    name: Literal["greedy", "last", "archive", "pareto", "islands"]
    proposals_per_generation: PositiveInt = 1  # the best of them on dev questions is the generation's candidate
    parallel_candidates: PositiveInt = 1  # each is proposed without the verdicts on the others
    patience: PositiveInt | None = None  # stop after so many generations without an accepted one; null: never
    # several models of the proposer's provider: each generation draws one by what its proposals gained per dollar so
    # far; empty: the provider's own
    proposer_models: list[NonEmptyText] = Field(default_factory=list)
    novelty_weight: NonNegativeFloat = 1.0  # archive: weight of a low number of extensions
    dev_groups: Annotated[int, Field(ge=2)] | None = 4  # pareto: groups of dev questions; null: each question is one
    merge_fraction: Annotated[float, Field(ge=0, le=1)] = 0.25  # pareto: share of proposals that merge two candidates
    islands: Annotated[int, Field(ge=2)] = 2  # islands: their number; generations take turns
    migrate_every: PositiveInt = 4  # islands: generations until each gets the leader of the one before it
    accept: Annotated[
        Annotated[AcceptConfig, Tag("Shipped")] | Annotated[CustomAcceptConfig, Tag("Custom")], schema_by_class("rule")
    ]


BUDGET_UNITS = ("minutes", "usd", "tokens", "calls")


class SpendingLimits(ConfigSection):
    """Limits on spending; null: no limit."""

    usd: PositiveFloat | None = None  # US dollars
    tokens: PositiveInt | None = None  # input and output tokens together
    calls: PositiveInt | None = None  # attempts, failed ones included
    minutes: PositiveFloat | None = None  # wall time


class BudgetConfig(SpendingLimits):
    """The budget of the whole run, over all resumes; `minutes` does not cut the final test."""

    test_reserve: FractionBelowOne = 0.1  # at least this share of usd, tokens and calls is reserved for the final test
    generation: SpendingLimits = Field(default_factory=SpendingLimits)  # of each generation


class EvidenceConfig(ConfigSection):
    """The amount of evidence that a proposer gets."""

    max_failures: NonNegativeInt = 200  # dev failures shown to the proposer
    max_kib: PositiveInt = 512  # KiB of failures and trajectories together
    memory: bool = True  # a list of what failed and why, made from all earlier candidates


class ControlConfig(ConfigSection):
    """A control arm: what the budget of a finished run buys without improvement. See docs/control.md."""

    # votes: the first harness, run as often as the budget allows, and the most frequent answer
    # random: proposals without feedback, selected by the same rule
    arm: Literal["votes", "random"]
    like: str | None = None  # the run whose spending is the budget, or a folder with one of the same task and seeds
    usd: PositiveFloat | None = None  # US dollars; null: what `like` spent, no limit if nothing or not known
    tokens: PositiveInt | None = None
    seconds: PositiveFloat | None = None  # of all steps
    most_samples: Annotated[int, Field(ge=2, le=10_000)] = 64  # votes: samples at most
    source: str = ""  # written by the run: the name of the run that `like` named, with the head of its journal


class Experiment(ConfigSection):
    """One composed and checked experiment."""

    task: TaskConfig
    meta_agent: MetaAgentConfig
    target_agent: TargetAgentConfig
    provider: ProviderConfig
    trainer: TrainerConfig
    lever: LeverRule = Field(default_factory=LeverRule)
    notes: list[str] = Field(default_factory=list)  # lines that a reader must know, printed by run, doctor and estimate
    control: ControlConfig | None = None  # null: no control arm
    web: bool = False  # the live dashboard beside the run
    # stop before a generation with that lever, with the plan on disk; `python -m sia_runner approve RUN` continues
    approve: Literal["none", "weights", "all"] = "none"
    sandbox: SandboxConfig
    compute: ComputeConfig
    tracker: TrackerConfig
    search: SearchConfig
    max_gen: Annotated[int, Field(ge=1, le=10_000)]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    split_seed: Annotated[int, Field(ge=0, lt=2**32)]
    budget: BudgetConfig
    evidence: EvidenceConfig

    @property
    def target_provider(self) -> OfflineProvider | HostedProvider:
        """The provider of the harness."""
        return self.target_agent.provider or self.provider

    @property
    def meta_provider(self) -> OfflineProvider | HostedProvider:
        """The provider of the proposer; of several models the first one."""
        provider = getattr(self.meta_agent, "provider", None) or self.provider
        models = self.search.proposer_models
        named = models and isinstance(provider, HostedProvider)
        return provider.model_copy(update={"model": models[0]}) if named else provider

    @property
    def other_meta_providers(self) -> list[HostedProvider]:
        """The provider of the proposer with each of its further models."""
        hosted, models = self.meta_provider, self.search.proposer_models[1:]
        return [hosted.model_copy(update={"model": model}) for model in models if isinstance(hosted, HostedProvider)]

    @property
    def proposer_calls_model(self) -> bool:
        """True if the proposer can call a model: `llm` and the guests must, a user's own may."""
        has_provider = "provider" in type(self.meta_agent).model_fields
        return has_provider and self.meta_provider.kind != "offline"

    @property
    def has_policy(self) -> bool:
        """True if the weights of the harness's model can be trained."""
        kind = self.target_agent.kind
        return kind == "policy" or (kind == "auto" and self.trainer.kind != "none")

    @property
    def shares_servers(self) -> bool:
        """True if all stages ask the same vLLM servers, which the run starts and ends."""
        spec = self.target_agent.policy
        if not self.has_policy or spec.backend != "vllm" or spec.base_url is not None:
            return False
        return (spec.vllm.owner or ("run" if _is_shipped(self.compute) else "stage")) == "run"

    @property
    def calls_model(self) -> bool:
        """True if the harness calls a model through the gateway."""
        kind = self.target_agent.kind
        return self.has_policy or kind == "model" or (kind == "auto" and self.target_provider.kind != "offline")

    @property
    def needs_gateway(self) -> bool:
        """True if a harness or a guest agent in the sandbox calls the gateway."""
        return self.calls_model or isinstance(self.meta_agent, GuestAgentConfig)

    @model_validator(mode="after")
    def _combinations(self) -> "Experiment":
        if refusal := next(
            chain(_training_refusals(self), _model_refusals(self), _search_refusals(self), _control_refusals(self)), ""
        ):
            raise ValueError(refusal)
        return self


def _is_shipped(compute: ComputeConfig) -> bool:
    return compute.target.startswith("sia_runner.compute.")


def check_experiment(composed: dict[str, Any]) -> Experiment:
    """Return the checked experiment; raises ValidationError, which `composition` turns into lines for the user."""
    return Experiment.model_validate(composed)


def check_task(composed: dict[str, Any]) -> TaskConfig:
    """Return the checked task of an unchecked experiment; raises pydantic.ValidationError."""
    return _TaskSection.model_validate({"task": composed["task"]}).task


class _TaskSection(ConfigSection):
    task: TaskConfig
