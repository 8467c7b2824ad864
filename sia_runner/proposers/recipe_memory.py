"""Holds the trials and proposals of all generations, and selects the variant to propose.

They are read back from the notes in the history.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sia_runner.proposers.prompting import standard_error
from sia_runner.proposers.protocol import Brief
from sia_runner.proposers.recipe_space import Space, Variant
from sia_runner.records import PastGeneration, Status, Trial

# Two harnesses that answer the same questions mostly agree, so their difference is less noisy than that of independent
# scores. Correlation of right answers, question by question: .64 to .89 between classifiers on LawBench (mean .74).
_AGREEMENT = 0.7


@dataclass(frozen=True, slots=True)
class MeasuredVariant:
    """A trial of a variant with a share of the training data."""

    variant: Variant
    fraction: float
    trial: Trial

    def to_json(self) -> dict[str, Any]:
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
    def from_json(data: Mapping[str, Any]) -> "MeasuredVariant":
        """Read what `as_json` wrote."""
        trial = Trial(data["value"], data["n"], data["seconds"], data["failure"])
        return MeasuredVariant(Variant(data["recipe"], data["constants"]), data["fraction"], trial)


def difference_error(value: float, other: float, n: int) -> float:
    """Return the standard error of the difference of two harnesses on the same `n` questions."""
    return math.sqrt((1 - _AGREEMENT) * (standard_error(value, n) ** 2 + standard_error(other, n) ** 2))


class SearchMemory:
    """Trials by (variant, share of train) and proposals by generation.

    A larger `merit` is better, whatever the metric.
    """

    def __init__(self, brief: Brief, space: Space) -> None:
        self._space, self.sign = space, 1.0 if brief.higher_is_better else -1.0
        self.history = brief.history
        self.proposals: dict[int, Variant] = {}
        self._trials: dict[tuple[str, float], MeasuredVariant] = {}
        for past in brief.history:
            if past.notes.get("recipe") is not None:
                self._propose(past.n, Variant(past.notes["recipe"], past.notes["constants"]))
            self.add(MeasuredVariant.from_json(trial) for trial in past.notes.get("trials", ()))
        self.incumbent = self.proposals.get(brief.incumbent or 0)
        self.rejections = sum(past.n > (brief.incumbent or 0) for past in brief.history)

    def _propose(self, n: int, variant: Variant) -> None:
        if self._space.holds(variant):
            self.proposals[n] = variant

    def add(self, trials: Iterable[MeasuredVariant]) -> None:
        """Add trials; variants outside the space are ignored."""
        for measured in trials:
            if self._space.holds(measured.variant):
                self._trials[measured.variant.key, measured.fraction] = measured

    def get(self, variant: Variant, fraction: float) -> MeasuredVariant | None:
        """Return the trial of `variant` with that share of train, or None."""
        return self._trials.get((variant.key, fraction))

    def variant(self, key: str) -> Variant:
        """Return the variant that `key` names."""
        recipe, constants = json.loads(key)
        return Variant(recipe, constants)

    def tried_keys(self) -> set[str]:
        """Return the keys of all variants that were tried or proposed."""
        return {key for key, _ in self._trials} | self._proposed()

    def unproposed(self, fraction: float) -> list[MeasuredVariant]:
        """Return variants that ran with that share of train and were never proposed, the best first."""
        proposed = self._proposed()
        waiting = [
            measured
            for (key, share), measured in self._trials.items()
            if share == fraction and key not in proposed and not measured.trial.failure
        ]
        return sorted(waiting, key=lambda m: (-self.merit(m), self.order(m), m.variant.key))

    def trials_at(self, fraction: float) -> list[MeasuredVariant]:
        """Return all trials with that share of train."""
        return [measured for (_, share), measured in self._trials.items() if share == fraction]

    def failures(self) -> list[str]:
        """Return the failure messages of all failed trials."""
        return [measured.trial.failure for measured in self._trials.values() if measured.trial.failure]

    def merit(self, measured: MeasuredVariant) -> float:
        """Return the trial's value, with its sign turned where lower is better."""
        return self.sign * measured.trial.value

    def order(self, measured: MeasuredVariant) -> int:
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
            if past.status == Status.FAILED:
                merits[key] = None
            elif past.val and key in measured:
                trial = measured[key].trial
                pooled = trial.value * trial.n + (past.val.value - shift) * past.val.n
                merits[key] = self.sign * pooled / (trial.n + past.val.n)
        return merits

    def _verdicts(self) -> list[tuple[str, PastGeneration]]:
        return [(self.proposals[past.n].key, past) for past in self.history if past.n in self.proposals]

    def _proposed(self) -> set[str]:
        return {variant.key for variant in self.proposals.values()}


_MUCH_FASTER = 0.5  # share of the seconds; smaller differences are noise of the machine


@dataclass(frozen=True, slots=True)
class SelectedVariant:
    """The variant selected for proposal and what it is compared with."""

    chosen: MeasuredVariant
    best: MeasuredVariant  # by dev alone
    baseline: float | None  # the incumbent's dev value, where known

    @property
    def doubt(self) -> float:
        """The standard error of the difference to the incumbent."""
        trial = self.chosen.trial
        return 0.0 if self.baseline is None else difference_error(trial.value, self.baseline, trial.n)

    @property
    def gain(self) -> float | None:
        """The difference to the incumbent on dev, in units of the metric."""
        return None if self.baseline is None else self.chosen.trial.value - self.baseline


def select_variant(memory: SearchMemory, rung: float, baseline: float | None) -> SelectedVariant | None:
    """Return the variant to propose; None when nothing that ran is left."""
    waiting = memory.unproposed(rung)
    if not waiting:
        return None
    best = waiting[0]
    frugal = [m for m in waiting if _within_noise(memory, m, best, baseline) and _cheaper(memory, m, best)]
    return SelectedVariant(frugal[0] if frugal else best, best, baseline)


def worse_than_incumbent(memory: SearchMemory, selected: SelectedVariant) -> bool:
    """Return whether the selected variant is worse than the incumbent by more than noise."""
    return selected.gain is not None and memory.sign * selected.gain < -selected.doubt


def _within_noise(
    memory: SearchMemory, measured: MeasuredVariant, best: MeasuredVariant, baseline: float | None
) -> bool:
    if baseline is not None and memory.merit(measured) <= memory.sign * baseline:
        return False  # a simpler variant must still beat the incumbent
    return memory.merit(best) - memory.merit(measured) < difference_error(
        measured.trial.value, best.trial.value, best.trial.n
    )


def _cheaper(memory: SearchMemory, measured: MeasuredVariant, best: MeasuredVariant) -> bool:
    return memory.order(measured) < memory.order(best) or measured.trial.seconds < _MUCH_FASTER * best.trial.seconds
