"""Writes improvement.md of the recipe search: the change, the reasons, the trials, the history, the expectation."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sia_runner.proposers.prompting import plus_minus, render_prompt
from sia_runner.proposers.protocol import Brief
from sia_runner.proposers.recipe_memory import MeasuredVariant, SearchMemory, SelectedVariant
from sia_runner.proposers.recipe_space import Recipe, Space, Variant

_CONFUSIONS = 5


@dataclass(frozen=True, slots=True)
class IncumbentEvidence:
    """The evidence that the recipe search uses: the incumbent's dev value, outcomes and failures."""

    incumbent: int | None = None  # its generation
    dev_value: float | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)  # kind -> count, of the incumbent's dev questions
    failures: Sequence[Mapping[str, Any]] = ()  # of the incumbent, on dev

    @staticmethod
    def read(folder: Path | None) -> "IncumbentEvidence":
        """Read the evidence folder; None gives empty evidence."""
        if folder is None:
            return IncumbentEvidence()
        summary, failures = folder / "summary.json", folder / "failures.jsonl"
        text = summary.read_text(encoding="utf-8") if summary.is_file() else "{}"
        incumbent = json.loads(text).get("incumbent") or {}
        lines = failures.read_text(encoding="utf-8").split("\n") if failures.is_file() else []
        return IncumbentEvidence(
            incumbent.get("generation"),
            (incumbent.get("dev") or {}).get("value"),
            incumbent.get("outcomes") or {},
            [json.loads(line) for line in lines if line.strip()],
        )

    def confusions(self) -> list[tuple[str, str, int]]:
        """Return (gold, prediction, count) of the most frequent wrong answers that occurred at least twice."""
        pairs = Counter(
            (str(failure["gold"]), str(failure["prediction"]))
            for failure in self.failures
            if failure.get("kind") == "wrong" and failure.get("gold") and failure.get("prediction")
        )
        ranked = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
        return [(gold, prediction, count) for (gold, prediction), count in ranked[:_CONFUSIONS] if count > 1]


@dataclass(frozen=True, slots=True)
class SearchReport:
    """The report of one generation of the recipe search."""

    brief: Brief
    space: Space
    memory: SearchMemory
    evidence: IncumbentEvidence
    selected: SelectedVariant
    trials: Sequence[MeasuredVariant]  # trials of this generation

    @property
    def recipe(self) -> Recipe:
        """The recipe of the proposed variant."""
        return self.space.recipes[self.selected.chosen.variant.recipe]

    @property
    def before(self) -> Variant | None:
        """The incumbent's variant, where it has the same recipe."""
        incumbent = self.memory.incumbent
        return incumbent if incumbent and incumbent.recipe == self.recipe.name else None

    @property
    def changed_constants(self) -> list[str]:
        """The names of the constants that differ from `before`; all where there is none."""
        before, new = self.before, self.selected.chosen.variant
        return [name for name in new.constants if before is None or before.constants[name] != new.constants[name]]

    def title(self) -> str:
        """Return the title: the recipe and its changed constants."""
        before, new = self.before, self.selected.chosen.variant
        if before is None:
            moved = self.departures(new)
            return f"{new.recipe}, {moved}" if moved else f"{new.recipe} at its defaults"
        steps = (f"{name} {before.constants[name]!r} -> {new.constants[name]!r}" for name in self.changed_constants)
        return f"{new.recipe}: {', '.join(steps)}"

    def rationale(self) -> str:
        """Return the measured reasons for this proposal."""
        chosen, best, gain = self.selected.chosen, self.selected.best, self.selected.gain
        reasons = f"On {chosen.trial.n} dev questions it scores {plus_minus(chosen.trial.value, chosen.trial.n)}"
        if gain is not None:
            doubt = f"standard error of the difference {self.selected.doubt:.3f}"
            reasons += f", the incumbent {self.selected.baseline:.3f} ({gain:+.3f}, {doubt})"
        if best is chosen:
            return f"{reasons}."
        simpler = self.memory.order(chosen) < self.memory.order(best)
        return (
            f"{reasons}. {best.variant.recipe} scored {best.trial.value:.3f}; that is better by less than noise, "
            f"and this program {'is simpler' if simpler else 'takes less than half the time'}."
        )

    def improvement(self) -> str:
        """Return the text of improvement.md."""
        ranked = sorted(self.trials, key=lambda m: (-m.fraction, bool(m.trial.failure), -self.memory.merit(m)))
        return render_prompt("recipes/improvement.md.j2", report=self, tried=ranked)

    def departures(self, variant: Variant) -> str:
        """Return a variant's constants that are not at their defaults, as text."""
        constants = self.space.recipes[variant.recipe].constants
        return ", ".join(
            f"{name} {value!r}" for name, value in variant.constants.items() if value != constants[name].default
        )
