"""The choice of lever and algorithm: a probe, its cost and the budget are what the written rules decide on."""

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sia_runner.config.experiment import BUDGET_UNITS, Experiment
from sia_runner.config.training import AlgorithmConfig, NoTrainer, TrainerConfig, allowed_algorithms
from sia_runner.errors import TrainingError
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.evidence.folder import remaining_budget
from sia_runner.experiment.execution import write_or_fault
from sia_runner.experiment.harness_files import read_harness
from sia_runner.experiment.weights.update import HarnessRollouts
from sia_runner.gateway.ledger_files import read_totals
from sia_runner.records import Json, Lever, PastGeneration, Proposal, count_kinds
from sia_runner.selection.parents import plateau_length
from sia_runner.store.run_directory import read_json, read_outcomes, remove_tree, tree_sha256, write_json

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


def _probe_harness(context: RunContext, n: int, files: Mapping[str, str], adapter: Path | None) -> Probe:
    """Probe the harness on the weights `adapter` (None: the base). The result is stored unless rollouts failed."""
    from sia_runner.selection.algorithm_choice import RewardShape

    trainer = context.config.trainer
    # of the training that would follow; trainer=auto has not chosen yet
    temperature = trainer.temperature if isinstance(trainer, AlgorithmConfig) else 1.0
    weights = tree_sha256(adapter) if adapter else None
    content = json.dumps([dict(files), weights, context.config.lever.probe_questions, temperature], sort_keys=True)
    key = hashlib.sha256(content.encode(errors="backslashreplace")).hexdigest()[:16]
    path = context.run.probes / f"{key}.json"
    if path.is_file():
        stored: Json = read_json(path)
        stored["shape"] = RewardShape.from_json(stored["shape"])
        return Probe(**stored)
    harness = context.run.generation(n).rollouts / "harness"
    remove_tree(harness.parent)  # from an interrupted probe
    harness.parent.mkdir(parents=True)
    roll = HarnessRollouts(context, n, harness, adapter, live=False, candidate=f"probe_{key}")
    try:
        result = _roll_out_probe(context, files, roll, temperature)
    finally:
        remove_tree(harness.parent)
    if not result.shape.failed:
        context.run.probes.mkdir(exist_ok=True)
        write_json(path, asdict(result))
    return result


def _roll_out_probe(context: RunContext, files: Mapping[str, str], roll: HarnessRollouts, temperature: float) -> Probe:
    from sia_runner.selection.algorithm_choice import measure_shape
    from sia_runner.tasks.splits import shuffled

    if fault := write_or_fault(context, files, roll.harness):
        return Probe(measure_shape([], 0.0), {}, 0, 0, 0.0, fault)
    if gateway := context.gateway:
        gateway.policy()  # loading the weights is not part of a rollout's time
    questions = shuffled(context.task.splits()["rollout"], f"{context.config.seed}:probe")
    questions = questions[: context.config.lever.probe_questions]
    start = time.monotonic()
    trajectories = roll(questions, samples=_PROBE_SAMPLES, step=-1, temperature=temperature)
    seconds = time.monotonic() - start
    usage = read_totals(context.run.ledger).of(candidate=roll.candidate).usage()
    shape = measure_shape(trajectories, seconds)
    return Probe(shape, count_kinds(trajectories), usage.calls, usage.tokens, round(seconds, 3))


@dataclass(frozen=True, slots=True)
class TrainingProspects:
    """The estimate for one harness."""

    probe: Probe
    suggested: str  # the algorithm by the rules; empty if they give none
    why: str  # the rule with its numbers, or why there is none
    rule: Mapping[str, Any] | None
    refused: Mapping[str, str]  # algorithm -> why it cannot be trained with now
    cost: Mapping[str, Mapping[str, float | None]]  # algorithm -> unit of the budget -> estimate; None: unknown
    left: Mapping[str, float | None]


def estimate_training(context: RunContext, n: int, parent: int, files: Mapping[str, str]) -> TrainingProspects:
    """Estimate a training of `files` that starts from the weights of generation `parent`."""
    from sia_runner.selection.algorithm_choice import why_unaffordable, why_untrainable

    measured = _probe_harness(context, n, files, context.run.adapter_of(parent))
    algorithms, remaining = allowed_algorithms(context.config.trainer), _budget_left(context, n)
    obstacle = measured.fault or why_untrainable(measured.shape) or _why_hopeless(context, parent, measured.shape)
    if obstacle:
        return TrainingProspects(measured, "", obstacle, None, dict.fromkeys(algorithms, obstacle), {}, remaining)
    shape = asdict(measured.shape)
    from sia_runner.experiment.costs import update_cost

    cost = {name: update_cost(context, parent, shape, algorithm) for name, algorithm in algorithms.items()}
    refused = {name: reason for name in algorithms if (reason := why_unaffordable(cost[name], remaining))}
    untrainable = _why_untrainable_there(context.config)
    suggested, why, rule = _suggested_algorithm(context.config.trainer, measured, untrainable)
    refused |= untrainable
    return TrainingProspects(measured, suggested, why, rule, refused, cost, remaining)


def _why_hopeless(context: RunContext, parent: int, shape: "RewardShape") -> str:
    """Return why no rollout is worth its price where neither the probe nor the parent's run earned anything."""
    scores = context.run.generation(parent).scores
    outcomes = read_outcomes(scores) if shape.zero_share == 1 and scores.is_file() else []
    if not outcomes or any(outcome.value for outcome in outcomes):
        return ""
    return (
        f"all {shape.n} rewards of the probe are 0, and so are all {len(outcomes)} of generation {parent} on dev and "
        "val: the policy gives no answer that could be reinforced"
    )


def _why_untrainable_there(config: Experiment) -> dict[str, str]:
    """Return the algorithms that the policy's backend cannot train, with the reason."""
    if "ppo" not in allowed_algorithms(config.trainer) or config.target_agent.policy.backend != "tinker":
        return {}
    return {"ppo": "it needs a value head, which the Tinker protocol has not"}


def _suggested_algorithm(
    trainer: TrainerConfig, measured: Probe, excluded: Mapping[str, str]
) -> tuple[str, str, Mapping[str, Any] | None]:
    from sia_runner.selection.algorithm_choice import ALGORITHM_RULES, choose_algorithm, why_no_signal

    if isinstance(trainer, AlgorithmConfig):
        return trainer.algorithm, f"the trainer is fixed: {trainer.name}", None
    if reason := why_no_signal(measured.shape):
        return "", reason, None
    allowed = allowed_algorithms(trainer).keys() - excluded.keys()
    rules = [rule for rule in ALGORITHM_RULES if rule.algorithm in allowed]
    try:
        choice = choose_algorithm(measured.shape, rules)
    except TrainingError as error:
        return "", str(error), None
    return choice.algorithm, choice.reason, asdict(choice)


def _budget_left(context: RunContext, n: int) -> dict[str, float | None]:
    """Return what is left of the run's and this generation's budgets, the smaller of both; None: no limit."""
    run_left = remaining_budget(context.config, context.run, n)
    limits = {unit: (run_left[unit], getattr(context.config.budget.generation, unit)) for unit in BUDGET_UNITS}
    return {unit: min((limit for limit in both if limit is not None), default=None) for unit, both in limits.items()}


@dataclass(frozen=True, slots=True)
class LeverDecision:
    """The lever that the rules of `lever` give."""

    due_reason: str = ""  # why the weights shall be trained; empty for the harness
    guaranteed: bool = False  # no proposer is asked, since none has tried weights by `lever.latest_fraction`
    left_alone: str = ""  # why the weights are not trained although they are due


@dataclass(frozen=True, slots=True)
class TrainingDecision:
    """The decision on a training. `algorithm` None: the weights are not trained, for `reason`."""

    algorithm: AlgorithmConfig | None
    reason: str
    evidence: Json = field(default_factory=dict[str, Any])  # measurements for decision.json


def decide_lever(config: Experiment, history: Sequence[PastGeneration], n: int, incumbent: int | None) -> LeverDecision:
    """Return the lever of generation `n`; there is nothing to train before a harness was accepted."""
    if isinstance(config.trainer, NoTrainer) or incumbent is None:
        return LeverDecision()
    length = plateau_length(history)
    reason = f"harness plateau {length} >= {config.lever.plateau}" if length >= config.lever.plateau else ""
    tried = any(past.lever is not Lever.HARNESS for past in history)
    guaranteed = not tried and n > math.ceil(config.lever.latest_fraction * config.max_gen)
    if guaranteed and not reason:
        reason = f"generation {n} of {config.max_gen}, and no weights were trained yet"
    return LeverDecision(reason, guaranteed)


def decide_training(context: RunContext, n: int, incumbent: int, reason: str) -> TrainingDecision:
    """Decide by the default policy: the incumbent's harness as it is, and the algorithm that the rules give."""
    measured = estimate_training(context, n, incumbent, read_harness(context.run.generation(incumbent).harness))
    return _training_decision(context.config, measured, measured.suggested, reason, chosen_by="rules")


def check_proposed_training(context: RunContext, n: int, parent: int, proposal: Proposal, why: str) -> TrainingDecision:
    """Decide on a proposer's own choice, or by the rules if it names no algorithm; refuse what cannot be trained."""
    measured = estimate_training(context, n, parent, proposal.files)
    trainer, algorithm = context.config.trainer, proposal.algorithm
    if algorithm is not None and algorithm not in allowed_algorithms(trainer):
        names = ", ".join(allowed_algorithms(trainer))
        return TrainingDecision(None, f"trainer={trainer.name} has no algorithm {algorithm[:40]!r}; allowed: {names}")
    return _training_decision(context.config, measured, algorithm or measured.suggested, why, chosen_by="proposer")


def _training_decision(
    config: Experiment, measured: TrainingProspects, algorithm: str, trigger: str, chosen_by: str
) -> TrainingDecision:
    probe = {name: getattr(measured.probe, name) for name in ("outcomes", "calls", "tokens", "seconds")}
    evidence: Json = {
        "due": trigger,
        "chosen_by": chosen_by,
        "shape": asdict(measured.probe.shape),
        "probe": probe,
        "rule": measured.rule,
        "cost": measured.cost.get(algorithm),
        "left": dict(measured.left),
    }
    refused = measured.refused.get(algorithm, "") if algorithm else measured.why
    if refused:
        return TrainingDecision(None, refused, {**evidence, "skipped": refused})
    why = measured.why
    if algorithm != measured.suggested:
        why = f"{algorithm} is the proposer's choice; by the rules: {measured.why}"
    why = f"{trigger}; {why}" if trigger else why
    return TrainingDecision(allowed_algorithms(config.trainer)[algorithm], why, evidence)
