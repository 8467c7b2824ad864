"""The choice of lever and algorithm: a probe, its cost and the budget are what the written rules decide on."""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_runner.config.experiment import Experiment
from sia_runner.config.training import AlgorithmConfig, NoTrainer, TrainerConfig, allowed_algorithms
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.costs import BUDGET_UNITS, update_cost
from sia_runner.experiment.evidence import folder
from sia_runner.experiment.execution import environment_fault
from sia_runner.experiment.harness_files import FaultyHarness, read_harness, write_harness
from sia_runner.experiment.weights.update import HarnessRollouts
from sia_runner.gateway.ledger_files import read_totals
from sia_runner.records import Json, Lever, OutcomeKind, PastGeneration
from sia_runner.selection.parents import plateau_length
from sia_runner.store.run_directory import read_json, remove_tree, tree_sha256, write_json
from sia_runner.tasks.splits import shuffled

if TYPE_CHECKING:
    from sia_runner.selection.algorithm_choice import RewardShape

_PROBE_SAMPLES = 4  # rollouts of each question: the fewest that show differences within a group


@dataclass(frozen=True, slots=True)
class Probe:
    """The measurements of a probe. `fault`: why the harness could not run; then nothing was measured."""

    shape: "RewardShape"
    outcomes: Mapping[str, int]  # of the rollouts, by kind
    calls: int  # model calls, including those without a question
    tokens: int
    seconds: float
    fault: str = ""

    @property
    def cost(self) -> dict[str, float]:
        """The calls, tokens and seconds that the probe took."""
        return {"calls": self.calls, "tokens": self.tokens, "seconds": self.seconds}


def probe_harness(context: RunContext, n: int, files: Mapping[str, str], adapter: Path | None) -> Probe:
    """Probe the harness `files` on the weights `adapter` (None: the base).

    The same harness on the same weights is rolled out once, in any generation and after a kill; except if rollouts
    failed for reasons that are not the harness's.
    """
    from sia_runner.selection.algorithm_choice import RewardShape

    key = _probe_key(context.config, files, adapter)
    path = context.run.probes / f"{key}.json"
    if path.is_file():
        stored = read_json(path)
        return Probe(**{**stored, "shape": RewardShape(**stored["shape"])})
    result = _roll_out_probe(context, n, f"probe_{key}", files, adapter)
    if not result.shape.failed:
        context.run.probes.mkdir(exist_ok=True)
        write_json(path, asdict(result))
    return result


def _probe_key(config: Experiment, files: Mapping[str, str], adapter: Path | None) -> str:
    weights = tree_sha256(adapter) if adapter else None
    settings = (config.lever.probe_questions, _probe_temperature(config))
    content = json.dumps([dict(files), weights, *settings], sort_keys=True)
    return hashlib.sha256(content.encode(errors="backslashreplace")).hexdigest()[:16]


def _probe_temperature(config: Experiment) -> float:
    """Return the temperature of the training that would follow, or 1 with trainer=auto, which has not chosen yet."""
    return config.trainer.temperature if isinstance(config.trainer, AlgorithmConfig) else 1.0


def _roll_out_probe(
    context: RunContext, n: int, candidate: str, files: Mapping[str, str], adapter: Path | None
) -> Probe:
    from sia_runner.selection.algorithm_choice import measure_shape

    generation, task = context.run.generation(n), context.task
    rollout = shuffled(task.splits()["rollout"], f"{context.config.seed}:probe")
    questions = rollout[: context.config.lever.probe_questions]
    harness = generation.rollouts / "harness"
    remove_tree(generation.rollouts)  # from an interrupted probe
    harness.parent.mkdir(parents=True)
    try:
        if fault := _write_or_fault(context, files, harness):
            return Probe(measure_shape([], 0.0), {}, 0, 0, 0.0, fault)
        if gateway := context.gateway:
            gateway.policy()  # loading the weights is not part of a rollout's time
        start = time.monotonic()
        roll = HarnessRollouts(context, n, harness, adapter, live=False, candidate=candidate)
        trajectories = roll(questions, samples=_PROBE_SAMPLES, step=-1, temperature=_probe_temperature(context.config))
        seconds = time.monotonic() - start
    finally:
        remove_tree(generation.rollouts)
    usage = read_totals(context.run.ledger).of(candidate=candidate).usage()
    kinds = [trajectory.kind for trajectory in trajectories]
    outcomes = {kind.value: kinds.count(kind) for kind in OutcomeKind if kind in kinds}
    return Probe(measure_shape(trajectories, seconds), outcomes, usage.calls, usage.tokens, round(seconds, 3))


def _write_or_fault(context: RunContext, files: Mapping[str, str], harness: Path) -> str:
    """Write the harness; return why these files are no valid harness, or an empty text."""
    try:
        write_harness(files, harness, context.task.entry)
    except FaultyHarness as fault:
        return str(fault)
    return environment_fault(context.config, harness)


@dataclass(frozen=True, slots=True)
class TrainingProspects:
    """The estimate for one harness.

    `suggested`: the algorithm by the rules, empty if they give none. `why`: the rule with its numbers, or why there is
    none. `refused`: algorithm -> why it cannot be trained with now. `cost`: estimate by algorithm and unit of the
    budget; None: unknown.
    """

    probe: Probe
    suggested: str
    why: str
    rule: Mapping[str, Any] | None
    refused: Mapping[str, str]
    cost: Mapping[str, Mapping[str, float | None]]
    left: Mapping[str, float | None]

    def as_evidence(self, algorithm: str) -> Json:
        """Return the measurements as plain data for decision.json."""
        return {
            "shape": asdict(self.probe.shape),
            "probe": {"outcomes": dict(self.probe.outcomes), **self.probe.cost},
            "rule": self.rule,
            "cost": self.cost.get(algorithm),
            "left": dict(self.left),
        }


def estimate_training(context: RunContext, n: int, parent: int, files: Mapping[str, str]) -> TrainingProspects:
    """Estimate a training of `files` that starts from the weights of generation `parent`."""
    from sia_runner.selection.algorithm_choice import why_unaffordable, why_untrainable

    measured = probe_harness(context, n, files, context.run.adapter_of(parent))
    algorithms, remaining = allowed_algorithms(context.config.trainer), _budget_left(context, n)
    obstacle = measured.fault or why_untrainable(measured.shape)
    if obstacle:
        return TrainingProspects(measured, "", obstacle, None, dict.fromkeys(algorithms, obstacle), {}, remaining)
    shape = asdict(measured.shape)
    cost = {name: update_cost(context, parent, shape, algorithm) for name, algorithm in algorithms.items()}
    refused = {name: reason for name in algorithms if (reason := why_unaffordable(cost[name], remaining))}
    suggested, why, rule = _suggested_algorithm(context.config.trainer, measured)
    return TrainingProspects(measured, suggested, why, rule, refused, cost, remaining)


def _suggested_algorithm(trainer: TrainerConfig, measured: Probe) -> tuple[str, str, Mapping[str, Any] | None]:
    from sia_runner.errors import TrainingError
    from sia_runner.selection.algorithm_choice import ALGORITHM_RULES, choose_algorithm, why_no_signal

    if isinstance(trainer, AlgorithmConfig):
        return trainer.algorithm, f"the trainer is fixed: {trainer.name}", None
    if reason := why_no_signal(measured.shape):
        return "", reason, None
    try:
        choice = choose_algorithm(
            measured.shape, [rule for rule in ALGORITHM_RULES if rule.algorithm in allowed_algorithms(trainer)]
        )
    except TrainingError as error:
        return "", str(error), None
    return choice.algorithm, choice.reason, asdict(choice)


def _budget_left(context: RunContext, n: int) -> dict[str, float | None]:
    """Return what is left of the run's and this generation's budgets, the smaller of both; None: no limit."""
    run_left, generation_limits = (
        folder.remaining_budget(context.config, context.run, n),
        context.config.budget.generation,
    )
    limits = {unit: (run_left[unit], getattr(generation_limits, unit)) for unit in BUDGET_UNITS}
    return {unit: min((x for x in both if x is not None), default=None) for unit, both in limits.items()}


@dataclass(frozen=True, slots=True)
class LeverDecision:
    """The lever that the rules of `lever` give.

    `due`: why the weights shall be trained; empty for the harness. `guaranteed`: no proposer is asked, since none has
    tried weights by `lever.latest_fraction`.
    """

    due_reason: str = ""
    guaranteed: bool = False
    left_alone: str = ""  # why the weights are not trained although they are due


@dataclass(frozen=True, slots=True)
class TrainingDecision:
    """The decision on a training. `algorithm` None: the weights are not trained, for `reason`."""

    algorithm: AlgorithmConfig | None
    reason: str
    evidence: Json = field(default_factory=dict)  # measurements for decision.json


def decide_lever(config: Experiment, history: Sequence[PastGeneration], n: int, incumbent: int | None) -> LeverDecision:
    """Return the lever of generation `n`; there is nothing to train before a harness was accepted."""
    if isinstance(config.trainer, NoTrainer) or incumbent is None:
        return LeverDecision()
    length = plateau_length(history)
    reason = f"harness plateau {length} >= {config.lever.plateau}" if length >= config.lever.plateau else ""
    tried = any(past.lever is not Lever.HARNESS for past in history)
    if not tried and n > math.ceil(config.lever.latest_fraction * config.max_gen):
        return LeverDecision(
            reason or f"generation {n} of {config.max_gen}, and no weights were trained yet", guaranteed=True
        )
    return LeverDecision(reason)


def decide_training(context: RunContext, n: int, incumbent: int, reason: str) -> TrainingDecision:
    """Decide by the default policy: the incumbent's harness as it is, and the algorithm that the rules give."""
    measured = estimate_training(context, n, incumbent, read_harness(context.run.generation(incumbent).harness))
    return _training_decision(context.config, measured, measured.suggested, reason, chosen_by="rules")


def check_proposed_training(
    context: RunContext, n: int, parent: int, files: Mapping[str, str], algorithm: str | None, why: str
) -> TrainingDecision:
    """Decide on a proposer's own choice; refused if nothing can be trained with it.

    `algorithm` None: as the rules say.
    """
    measured = estimate_training(context, n, parent, files)
    if algorithm is not None and algorithm not in allowed_algorithms(context.config.trainer):
        names = ", ".join(allowed_algorithms(context.config.trainer))
        return TrainingDecision(
            None, f"trainer={context.config.trainer.name} has no algorithm {algorithm[:40]!r}; allowed: {names}"
        )
    return _training_decision(context.config, measured, algorithm or measured.suggested, why, chosen_by="proposer")


def _training_decision(
    config: Experiment, measured: TrainingProspects, algorithm: str, trigger: str, chosen_by: str
) -> TrainingDecision:
    evidence = {"due": trigger, "chosen_by": chosen_by, **measured.as_evidence(algorithm)}
    refused = measured.refused.get(algorithm, "") if algorithm else measured.why
    if refused:
        return TrainingDecision(None, refused, {**evidence, "skipped": refused})
    why = measured.why
    if algorithm != measured.suggested:
        why = f"{algorithm} is the proposer's choice; by the rules: {measured.why}"
    return TrainingDecision(
        allowed_algorithms(config.trainer)[algorithm], f"{trigger}; {why}" if trigger else why, evidence
    )
