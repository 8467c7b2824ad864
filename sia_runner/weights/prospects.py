"""What training one harness promises and costs: the probe, the algorithm that the rules give, what fits the budget."""

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
    """`suggested`: by the rules, empty where they give none. `why`: the rule with its numbers, or why there is none.
    `refused`: algorithm -> why it cannot be trained with now; `cost`: its estimate, in `_UNITS`; None: not known."""

    probe: Probe
    suggested: str
    why: str
    rule: Mapping[str, Any] | None
    refused: Mapping[str, str]
    cost: Mapping[str, Mapping[str, float | None]]
    left: Mapping[str, float | None]

    def as_evidence(self, algorithm: str) -> dict[str, Any]:
        """For decision.json."""
        return {
            "shape": self.probe.shape.as_json(),
            "probe": {"outcomes": dict(self.probe.outcomes), **self.probe.cost},
            "rule": self.rule,
            "cost": self.cost.get(algorithm),
            "left": dict(self.left),
        }


def prospects(config: Experiment, run: RunDir, n: int, parent: int, files: Mapping[str, str]) -> Prospects:
    """Of training `files` on from the weights of generation `parent`."""
    from sia_runner.training.rules import impossible, unaffordable

    found = probe(config, run, n, files, run.adapter_of(parent))
    algorithms, left = allowed(config.trainer), _left(config, run, n)
    stopped = found.fault or impossible(found.shape)
    if stopped:
        return Prospects(found, "", stopped, None, dict.fromkeys(algorithms, stopped), {}, left)
    cost = {name: _cost(config, run, parent, found, algorithm) for name, algorithm in algorithms.items()}
    refused = {name: reason for name in algorithms if (reason := unaffordable(cost[name], left))}
    suggested, why, rule = _suggested(config.trainer, found)
    return Prospects(found, suggested, why, rule, refused, cost, left)


def _suggested(trainer: Trainer, found: Probe) -> tuple[str, str, Mapping[str, Any] | None]:
    from sia_runner.training.protocol import TrainingError
    from sia_runner.training.rules import RULES, choose, nothing_to_gain

    if isinstance(trainer, Algorithm):
        return trainer.algorithm, f"the trainer is fixed: {trainer.name}", None
    if reason := nothing_to_gain(found.shape):
        return "", reason, None
    try:
        choice = choose(found.shape, [rule for rule in RULES if rule.algorithm in allowed(trainer)])
    except TrainingError as error:
        return "", str(error), None
    return choice.algorithm, choice.reason, choice.as_json()


def _cost(config: Experiment, run: RunDir, parent: int, found: Probe, algorithm: Algorithm) -> dict[str, float | None]:
    """Of the update, and of the gate and the run that follow; a sum with an unknown part is not known."""
    proposal = {"lever": Lever.WEIGHTS, "overrides": algorithm.model_dump(mode="json")}
    evidence = {"parent": parent, "shape": found.shape.as_json()}
    parts = plan_costs.parts(config, run, proposal, evidence, finished(Record(run.journal)))
    return {unit: _sum([getattr(part, unit) for part in parts]) for unit in _UNITS}


def _sum(amounts: list[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return round(sum(known), 4) if len(known) == len(amounts) else None


def _left(config: Experiment, run: RunDir, n: int) -> dict[str, float | None]:
    """Of the run and of this generation, whichever is less; None: no limit."""
    of_run, of_generation = budget.left(config, run, n), config.budget.generation
    limits = {unit: (of_run[unit], getattr(of_generation, unit)) for unit in _UNITS}
    return {unit: min((x for x in both if x is not None), default=None) for unit, both in limits.items()}
