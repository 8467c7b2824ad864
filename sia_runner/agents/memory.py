"""Holds all trials and proposals of earlier generations, read back from the notes in the history."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sia_runner.agents.markdown import standard_error
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
        """Return the JSON that the notes of a proposal store."""
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
        """Read what `as_json` wrote."""
        trial = Trial(data["value"], data["n"], data["seconds"], data["failure"])
        return Measured(Variant(data["recipe"], data["constants"]), data["fraction"], trial)


def noise(value: float, other: float, n: int) -> float:
    """Return the standard error of the difference of two harnesses on the same `n` questions."""
    return math.sqrt((1 - _AGREEMENT) * (standard_error(value, n) ** 2 + standard_error(other, n) ** 2))


class Memory:
    """Trials by (variant, share of train) and proposals by generation.

    A larger `merit` is better, whatever the metric.
    """

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
        """Add trials; variants outside the space are ignored."""
        for measured in trials:
            if self._space.holds(measured.variant):
                self._trials[measured.variant.key, measured.fraction] = measured

    def get(self, variant: Variant, fraction: float) -> Measured | None:
        """Return the trial of `variant` with that share of train, or None."""
        return self._trials.get((variant.key, fraction))

    def variant(self, key: str) -> Variant:
        """Return the variant that `key` names."""
        recipe, constants = json.loads(key)
        return Variant(recipe, constants)

    def tried_keys(self) -> set[str]:
        """Return the keys of all variants that were tried or proposed."""
        return {key for key, _ in self._trials} | self._proposed()

    def unproposed(self, fraction: float) -> list[Measured]:
        """Return variants that ran with that share of train and were never proposed, the best first."""
        proposed = self._proposed()
        waiting = [
            measured
            for (key, share), measured in self._trials.items()
            if share == fraction and key not in proposed and not measured.trial.failure
        ]
        return sorted(waiting, key=lambda m: (-self.merit(m), self.order(m), m.variant.key))

    def trials_at(self, fraction: float) -> list[Measured]:
        """Return all trials with that share of train."""
        return [measured for (_, share), measured in self._trials.items() if share == fraction]

    def failures(self) -> list[str]:
        """Return the failure messages of all failed trials."""
        return [measured.trial.failure for measured in self._trials.values() if measured.trial.failure]

    def merit(self, measured: Measured) -> float:
        """Return the trial's value, with its sign turned where lower is better."""
        return self.sign * measured.trial.value

    def order(self, measured: Measured) -> int:
        """Return the position of the variant's recipe in the file; simple recipes come first."""
        return self._space.recipes[measured.variant.recipe].order

    def merits(self, fraction: float) -> dict[str, float | None]:
        """Return the merit of each variant tried with that share of train, by key; None for a failed one.

        A proposed variant was also scored on val. Val may be harder or easier than dev, so val scores are shifted by
        the mean difference of the two; then both are averaged, weighted by their numbers of questions.
        """
        measured = {key: m for (key, share), m in self._trials.items() if share == fraction}
        merits = {key: None if m.trial.failure else self.sign * m.trial.value for key, m in measured.items()}
        scored = [(measured[key].trial, past) for key, past in self._verdicts() if key in measured and past.val]
        shift = sum(past.val.value - trial.value for trial, past in scored if past.val) / max(1, len(scored))
        for key, past in self._verdicts():
            if past.status == "failed":
                merits[key] = None
            elif past.val and key in measured:
                trial = measured[key].trial
                pooled = trial.value * trial.n + (past.val.value - shift) * past.val.n
                merits[key] = self.sign * pooled / (trial.n + past.val.n)
        return merits

    def _verdicts(self) -> list[tuple[str, Past]]:
        return [(self.proposals[past.n].key, past) for past in self.history if past.n in self.proposals]

    def _proposed(self) -> set[str]:
        return {variant.key for variant in self.proposals.values()}
