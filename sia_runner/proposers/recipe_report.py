"""Writes improvement.md of the recipe search: the change, the reasons, the trials, the history, the expectation."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sia_runner.proposers.prompting import plus_minus, render_markdown, table_cell
from sia_runner.proposers.protocol import Brief
from sia_runner.proposers.recipe_memory import MeasuredVariant, SearchMemory, SelectedVariant
from sia_runner.proposers.recipe_space import Recipe, Space, Variant

_PROMPTS = Path(__file__).parent / "prompts" / "recipes"
_CONFUSIONS = 5
_NEW_CONSTANT = object()  # stands for the former value of a constant that did not exist before


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
    def _recipe(self) -> Recipe:
        return self.space.recipes[self.selected.chosen.variant.recipe]

    @property
    def _before(self) -> Variant | None:
        """The incumbent's variant, where it has the same recipe."""
        incumbent = self.memory.incumbent
        return incumbent if incumbent and incumbent.recipe == self._recipe.name else None

    def title(self) -> str:
        """Return the title: the recipe and its changed constants."""
        if self._before is None:
            moved = self._departures(self.selected.chosen.variant)
            return f"{self._recipe.name}, {moved}" if moved else f"{self._recipe.name} at its defaults"
        steps = [f"{change['name']} {change['before']!r} -> {change['now']!r}" for change in self._changes()]
        return f"{self._recipe.name}: {', '.join(steps)}"

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
        before = f"the harness of generation {self.brief.incumbent}" if self.brief.incumbent else ""
        if self.memory.incumbent is not None:
            before = f"`{self.memory.incumbent.recipe}`"
        ranked = sorted(self.trials, key=lambda m: (-m.fraction, bool(m.trial.failure), -self.memory.merit(m)))
        return render_recipe_template(
            "improvement.md.j2",
            n=self.brief.n,
            title=self.title(),
            recipe=self._recipe,
            moved=self._before is not None,
            before=before,
            changes=self._changes(),
            rationale=self.rationale(),
            incumbent=self.evidence.incumbent,
            outcomes=self.evidence.outcomes,
            confusions=self.evidence.confusions(),
            tried=[self._row(measured) for measured in ranked],
            history=self.brief.history,
            rejections=self.memory.rejections,
            best=self.brief.incumbent,
            expectation=self._expectation(),
        )

    def _changes(self) -> list[dict[str, Any]]:
        old, new = self._before.constants if self._before else {}, self.selected.chosen.variant.constants
        return [
            {"name": name, "before": old.get(name, _NEW_CONSTANT), "now": new[name], "says": constant.says}
            for name, constant in self._recipe.constants.items()
            if name not in old or old[name] != new[name]
        ]

    def _row(self, measured: MeasuredVariant) -> dict[str, str]:
        trial, chosen = measured.trial, measured is self.selected.chosen
        return {
            "recipe": measured.variant.recipe,
            "constants": self._departures(measured.variant) or "none",
            "share": f"{measured.fraction:g}",
            "dev": "failed" if trial.failure else plus_minus(trial.value, trial.n),
            "seconds": f"{trial.seconds:.2f}",
            "note": trial.failure or ("proposed" if chosen else ""),
        }

    def _departures(self, variant: Variant) -> str:
        """Return the constants that are not at their defaults, as text."""
        constants = self.space.recipes[variant.recipe].constants
        return ", ".join(
            f"{name} {value!r}" for name, value in variant.constants.items() if value != constants[name].default
        )

    def _expectation(self) -> str:
        gain, doubt = self.selected.gain, self.selected.doubt
        if gain is None:
            return "The incumbent has no dev value to compare with; val decides."
        better = self.memory.sign * gain
        if better > doubt:
            return (
                f"Dev promises {gain:+.3f}. Expect less on val: the best of several trials owes a part of its score "
                "to luck on the dev questions."
            )
        if better >= -doubt:
            return f"The difference on dev ({gain:+.3f}) is within noise ({doubt:.3f}): val may well reject it."
        return f"Dev says it is worse than the incumbent ({gain:+.3f}); nothing better was found, so val may reject it."


def render_recipe_template(template: str, **values: Any) -> str:
    """Render a template of the recipe search; every name it uses must be given."""
    filters = {"cell": table_cell, "value": lambda value: "–" if value is _NEW_CONSTANT else f"`{value!r}`"}
    return render_markdown(_PROMPTS, template, filters, **values)
