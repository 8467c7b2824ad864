"""What the search knows: every trial and proposal of earlier generations, read back from the notes in the history."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sia_runner.agents.protocol import Brief
from sia_runner.agents.space import Space, Variant
from sia_runner.records import Past, Trial

# Two harnesses that answer the same questions mostly agree, so their difference is less noisy than that of independent
# scores. Correlation of right answers, question by question: .64 to .89 between classifiers on LawBench (mean .74).
_AGREEMENT = 0.7


@dataclass(frozen=True, slots=True)
class Measured:
    """A trial of a variant with a share of the training data."""

    variant: Variant
    fraction: float
    trial: Trial

    def as_json(self) -> dict[str, Any]:
        return {
            "recipe": self.variant.recipe,
            "constants": dict(self.variant.constants),
            "fraction": self.fraction,
            "value": self.trial.value,
            "n": self.trial.n,
            "seconds": self.trial.seconds,
            "failure": self.trial.failure,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Measured":
        trial = Trial(data["value"], data["n"], data["seconds"], data["failure"])
        return Measured(Variant(data["recipe"], data["constants"]), data["fraction"], trial)


def standard_error(value: float, n: int) -> float:
    """Of a mean of `n` values between 0 and 1 (the binomial bound); 0 for a metric on another scale."""
    return math.sqrt(value * (1 - value) / n) if n > 0 and 0 <= value <= 1 else 0.0


def noise(one: float, other: float, n: int) -> float:
    """Standard error of the difference of two harnesses on the same `n` questions."""
    return math.sqrt((1 - _AGREEMENT) * (standard_error(one, n) ** 2 + standard_error(other, n) ** 2))


class Memory:
    """Trials by (variant, share of train), proposals by generation. Larger `merit` is better, whatever the metric."""

    def __init__(self, brief: Brief, space: Space) -> None:
        self._space, self.sign = space, 1.0 if brief.higher_is_better else -1.0
        self.history = brief.history
        self.proposals: dict[int, Variant] = {}
        self._trials: dict[tuple[str, float], Measured] = {}
        for past in brief.history:
            if past.notes.get("recipe") is not None:
                self._propose(past.n, Variant(past.notes["recipe"], past.notes["constants"]))
            self.add(Measured.from_json(trial) for trial in past.notes.get("trials", ()))
        self.incumbent = self.proposals.get(brief.incumbent or 0)
        self.rejections = sum(past.n > (brief.incumbent or 0) for past in brief.history)

    def _propose(self, n: int, variant: Variant) -> None:
        if self._space.holds(variant):
            self.proposals[n] = variant

    def add(self, trials: Iterable[Measured]) -> None:
        for measured in trials:
            if self._space.holds(measured.variant):
                self._trials[measured.variant.key, measured.fraction] = measured

    def get(self, variant: Variant, fraction: float) -> Measured | None:
        return self._trials.get((variant.key, fraction))

    def variant(self, key: str) -> Variant:
        recipe, constants = json.loads(key)
        return Variant(recipe, constants)

    def seen(self) -> set[str]:
        """Keys of all variants ever tried or proposed."""
        return {key for key, _ in self._trials} | self._proposed()

    def open(self, fraction: float) -> list[Measured]:
        """What ran with that share of train and was never proposed, the best first."""
        proposed = self._proposed()
        waiting = [
            measured
            for (key, share), measured in self._trials.items()
            if share == fraction and key not in proposed and not measured.trial.failure
        ]
        return sorted(waiting, key=lambda m: (-self.merit(m), self.order(m), m.variant.key))

    def at(self, fraction: float) -> list[Measured]:
        return [measured for (_, share), measured in self._trials.items() if share == fraction]

    def failures(self) -> list[str]:
        return [measured.trial.failure for measured in self._trials.values() if measured.trial.failure]

    def merit(self, measured: Measured) -> float:
        return self.sign * measured.trial.value

    def order(self, measured: Measured) -> int:
        return self._space.recipes[measured.variant.recipe].order

    def told(self, fraction: float) -> dict[str, float | None]:
        """Merit of each variant tried with that share of train, by key; None for one that failed.

        A proposed variant was also scored on val. Val may be harder or easier than dev, so val scores are moved by the
        mean difference of the two, then both are pooled by their numbers of questions: what val rejected sinks.
        """
        known = {key: m for (key, share), m in self._trials.items() if share == fraction}
        told = {key: None if m.trial.failure else self.sign * m.trial.value for key, m in known.items()}
        scored = [(known[key].trial, past) for key, past in self._verdicts() if key in known and past.val]
        shift = sum(past.val.value - trial.value for trial, past in scored if past.val) / max(1, len(scored))
        for key, past in self._verdicts():
            if past.status == "failed":
                told[key] = None
            elif past.val and key in known:
                trial = known[key].trial
                pooled = trial.value * trial.n + (past.val.value - shift) * past.val.n
                told[key] = self.sign * pooled / (trial.n + past.val.n)
        return told

    def _verdicts(self) -> list[tuple[str, Past]]:
        return [(self.proposals[past.n].key, past) for past in self.history if past.n in self.proposals]

    def _proposed(self) -> set[str]:
        return {variant.key for variant in self.proposals.values()}
