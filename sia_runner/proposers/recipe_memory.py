"""Reads the trials and proposals of all generations from the notes in the history; selects the variant to propose."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sia_runner.proposers.prompting import standard_error
from sia_runner.proposers.protocol import Brief
from sia_runner.proposers.recipe_space import Space, Variant
from sia_runner.records import Status, Trial

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
        """Read what `to_json` wrote."""
        trial = Trial(data["value"], data["n"], data["seconds"], data["failure"])
        return MeasuredVariant(Variant(data["recipe"], data["constants"]), data["fraction"], trial)


def difference_error(value: float, other: float, n: int) -> float:
    """Return the standard error of the difference of two harnesses on the same `n` questions."""
    return math.sqrt((1 - _AGREEMENT) * (standard_error(value, n) ** 2 + standard_error(other, n) ** 2))


class SearchMemory:
    """The trials and proposals of a search. A larger `merit` is better, whatever the metric."""

    def __init__(self, brief: Brief, space: Space) -> None:
        self._space, self.sign = space, 1.0 if brief.higher_is_better else -1.0
        self._history = brief.history
        self._proposals: dict[int, Variant] = {}
        self.trials: dict[tuple[str, float], MeasuredVariant] = {}  # by key of the variant and share of train
        for past in brief.history:
            if past.notes.get("recipe") is not None:
                variant = Variant(past.notes["recipe"], past.notes["constants"])
                if space.holds(variant):
                    self._proposals[past.n] = variant
            self.add(MeasuredVariant.from_json(trial) for trial in past.notes.get("trials", ()))
        self._proposed_keys = {variant.key for variant in self._proposals.values()}
        self.incumbent = self._proposals.get(brief.incumbent or 0)
        self.parent = self._proposals.get(brief.parent or brief.incumbent or 0)
        self.partner = self._proposals.get(brief.partner or 0)
        self.rejections = sum(past.n > (brief.incumbent or 0) for past in brief.history)

    def add(self, trials: Iterable[MeasuredVariant]) -> None:
        """Add trials; variants outside the space are ignored."""
        for measured in trials:
            if self._space.holds(measured.variant):
                self.trials[measured.variant.key, measured.fraction] = measured

    def variant(self, key: str) -> Variant:
        """Return the variant that `key` names."""
        recipe, constants = json.loads(key)
        return Variant(recipe, constants)

    def tried_keys(self) -> set[str]:
        """Return the keys of all variants that were tried or proposed."""
        return {key for key, _ in self.trials} | self._proposed_keys

    def unproposed(self, fraction: float) -> list[MeasuredVariant]:
        """Return variants that ran with that share of train and were never proposed, the best first."""
        sound = [measured for measured in self.trials_at(fraction) if not measured.trial.failure]
        waiting = [measured for measured in sound if measured.variant.key not in self._proposed_keys]
        return sorted(waiting, key=lambda m: (-self.merit(m), self.order(m), m.variant.key))

    def trials_at(self, fraction: float) -> list[MeasuredVariant]:
        """Return all trials with that share of train."""
        return [measured for measured in self.trials.values() if measured.fraction == fraction]

    def merit(self, measured: MeasuredVariant) -> float:
        """Return the trial's value, with its sign turned where lower is better."""
        return self.sign * measured.trial.value

    def order(self, measured: MeasuredVariant) -> int:
        """Return the position of the variant's recipe in the file; simple recipes come first."""
        return self._space.recipes[measured.variant.recipe].order

    def merits(self, fraction: float) -> dict[str, float | None]:
        """Return the merit of each variant tried with that share of train, by key; None for a failed one.

        A proposed variant was also scored on val: val scores, shifted by the mean difference of val and dev, are
        averaged with dev's, weighted by their numbers of questions.
        """
        trials = {measured.variant.key: measured.trial for measured in self.trials_at(fraction)}
        merits = {key: None if trial.failure else self.sign * trial.value for key, trial in trials.items()}
        verdicts = [(self._proposals[past.n].key, past) for past in self._history if past.n in self._proposals]
        shifts = [past.val.value - trials[key].value for key, past in verdicts if key in trials and past.val]
        shift = sum(shifts) / max(1, len(shifts))
        for key, past in verdicts:
            if past.status == Status.FAILED:
                merits[key] = None
            elif past.val and key in trials:
                trial = trials[key]
                pooled = trial.value * trial.n + (past.val.value - shift) * past.val.n
                merits[key] = self.sign * pooled / (trial.n + past.val.n)
        return merits


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
    """Return the best variant on dev, or a cheaper one within noise that still beats `baseline`; None: none is left."""
    waiting = memory.unproposed(rung)
    if not waiting:
        return None
    best = waiting[0]
    for measured in waiting:
        is_simpler = memory.order(measured) < memory.order(best)
        is_faster = measured.trial.seconds < _MUCH_FASTER * best.trial.seconds
        beats_incumbent = baseline is None or memory.merit(measured) > memory.sign * baseline
        error = difference_error(measured.trial.value, best.trial.value, best.trial.n)
        if (is_simpler or is_faster) and beats_incumbent and memory.merit(best) - memory.merit(measured) < error:
            return SelectedVariant(measured, best, baseline)
    return SelectedVariant(best, best, baseline)


def worse_than_incumbent(memory: SearchMemory, selected: SelectedVariant) -> bool:
    """Return whether the selected variant is worse than the incumbent by more than noise."""
    return selected.gain is not None and memory.sign * selected.gain < -selected.doubt
