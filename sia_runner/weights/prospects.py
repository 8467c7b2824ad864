"""The estimate for training one harness: the probe, the algorithm that the rules give, cost and remaining budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sia_runner.approve import plan_costs
from sia_runner.config import Experiment
from sia_runner.evidence import budget
from sia_runner.ground.history import finished
from sia_runner.ground.journal import Record
from sia_runner.records import Lever
from sia_runner.rundir import RunDir
from sia_runner.schema.training import Algorithm, Trainer, allowed
from sia_runner.weights.probing import Probe, probe

_UNITS = ("minutes", "usd", "tokens", "calls")


@dataclass(frozen=True, slots=True)
class Prospects:
    """The estimate for one harness.

    `suggested`: the algorithm by the rules, empty if they give none. `why`: the rule with its numbers, or why there is
    none. `refused`: algorithm -> why it cannot be trained with now. `cost`: estimate by algorithm and unit (`_UNITS`);
    None: unknown.
    """

    probe: Probe
    suggested: str
    why: str
    rule: Mapping[str, Any] | None
    refused: Mapping[str, str]
    cost: Mapping[str, Mapping[str, float | None]]
    left: Mapping[str, float | None]

    def as_evidence(self, algorithm: str) -> dict[str, Any]:
        """Return the measurements as plain data for decision.json."""
        return {
            "shape": self.probe.shape.as_json(),
            "probe": {"outcomes": dict(self.probe.outcomes), **self.probe.cost},
            "rule": self.rule,
            "cost": self.cost.get(algorithm),
            "left": dict(self.left),
        }


def prospects(config: Experiment, run: RunDir, n: int, parent: int, files: Mapping[str, str]) -> Prospects:
    """Estimate a training of `files` that starts from the weights of generation `parent`."""
    from sia_runner.training.rules import impossible, unaffordable

    measured = probe(config, run, n, files, run.adapter_of(parent))
    algorithms, remaining = allowed(config.trainer), _left(config, run, n)
    obstacle = measured.fault or impossible(measured.shape)
    if obstacle:
        return Prospects(measured, "", obstacle, None, dict.fromkeys(algorithms, obstacle), {}, remaining)
    cost = {name: _cost(config, run, parent, measured, algorithm) for name, algorithm in algorithms.items()}
    refused = {name: reason for name in algorithms if (reason := unaffordable(cost[name], remaining))}
    suggested, why, rule = _suggested(config.trainer, measured)
    return Prospects(measured, suggested, why, rule, refused, cost, remaining)


def _suggested(trainer: Trainer, measured: Probe) -> tuple[str, str, Mapping[str, Any] | None]:
    from sia_runner.training.protocol import TrainingError
    from sia_runner.training.rules import RULES, choose, nothing_to_gain

    if isinstance(trainer, Algorithm):
        return trainer.algorithm, f"the trainer is fixed: {trainer.name}", None
    if reason := nothing_to_gain(measured.shape):
        return "", reason, None
    try:
        choice = choose(measured.shape, [rule for rule in RULES if rule.algorithm in allowed(trainer)])
    except TrainingError as error:
        return "", str(error), None
    return choice.algorithm, choice.reason, choice.as_json()


def _cost(
    config: Experiment, run: RunDir, parent: int, measured: Probe, algorithm: Algorithm
) -> dict[str, float | None]:
    """Estimate the cost of the update, and of the gate and run that follow; a sum with an unknown part is None."""
    proposal = {"lever": Lever.WEIGHTS, "overrides": algorithm.model_dump(mode="json")}
    evidence = {"parent": parent, "shape": measured.shape.as_json()}
    parts = plan_costs.parts(config, run, proposal, evidence, finished(Record(run.journal)))
    return {unit: _sum([getattr(part, unit) for part in parts]) for unit in _UNITS}


def _sum(amounts: list[float | None]) -> float | None:
    amounts_present = [amount for amount in amounts if amount is not None]
    return round(sum(amounts_present), 4) if len(amounts_present) == len(amounts) else None


def _left(config: Experiment, run: RunDir, n: int) -> dict[str, float | None]:
    """Return what is left of the run's and this generation's budgets, the smaller of both; None: no limit."""
    run_left, generation_limits = budget.left(config, run, n), config.budget.generation
    limits = {unit: (run_left[unit], getattr(generation_limits, unit)) for unit in _UNITS}
    return {unit: min((x for x in both if x is not None), default=None) for unit, both in limits.items()}
