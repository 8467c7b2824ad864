"""A task whose response surface is known: an in-memory workbench, and the loop's accept rule in five lines."""

import ast
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sia_runner.proposers.protocol import Brief, Files, Proposer, ProposerContext
from sia_runner.proposers.recipes import Recipes
from sia_runner.records import Lever, PastGeneration, Proposal, Score, Trial

ENTRY = "target_agent.py"
OPTIMUM = 0.86
QUESTIONS = 500

_RECIPES = """
recipes:
  plain:
    file: plain.py
    title: the simple one
    idea: It costs nothing and cannot get far.
    constants:
      RATE: {low: 0.01, high: 1.0, log: true, default: 0.1, says: "a rate"}
  decoy:
    file: decoy.py
    title: good from the start, little to gain
    idea: Its defaults are nearly its best.
    constants:
      DEPTH: {low: 1, high: 9, default: 4, says: "a depth"}
  rich:
    file: rich.py
    title: poor from the start, much to gain
    idea: It needs its constants set right.
    constants:
      C: {low: 0.01, high: 100.0, log: true, default: 0.1, says: "a penalty"}
      SIZE: {low: 1, high: 8, default: 2, says: "a size"}
      MODE: {choices: [slow, fast, exact], default: slow, says: "a mode"}
"""
_PROGRAMS = {
    "plain": 'NAME = "plain"\nRATE = 0.1\n',
    "decoy": 'NAME = "decoy"\nDEPTH = 4\n',
    "rich": 'NAME = "rich"\nC = 0.1  # a penalty\nSIZE = 2\nMODE = "slow"\n',
}


def write_task(folder: Path) -> ProposerContext:
    """A task folder with the three recipes and a reference harness of its own."""
    (folder / "recipes").mkdir(parents=True)
    (folder / "recipes" / "recipes.yaml").write_text(_RECIPES)
    for name, program in _PROGRAMS.items():
        (folder / "recipes" / f"{name}.py").write_text(program)
    (folder / "reference").mkdir()
    (folder / "reference" / ENTRY).write_text('NAME = "reference"\n')
    return ProposerContext("synthetic", folder, folder / "reference", ENTRY, seed=0)


def expected(files: Files) -> float:
    """The score of a harness with all training data and endless questions."""
    given = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(files[ENTRY]).body}  # pyright: ignore
    match given["NAME"]:
        case "plain":
            return 0.60 - 0.02 * abs(math.log10(given["RATE"]) + 1)
        case "decoy":
            return 0.74 - 0.005 * abs(given["DEPTH"] - 5)
        case "rich":
            away = (math.log10(given["C"] / 3.0) / 4) ** 2 + ((given["SIZE"] - 6) / 7) ** 2
            return OPTIMUM - 0.35 * away - {"exact": 0.0, "fast": 0.02, "slow": 0.05}[given["MODE"]]
    return 0.30


@dataclass
class Bench:
    """Scores fall with less training data; the noise of a harness is its own, as with one fixed set of questions."""

    noisy: bool = False
    failing: frozenset[str] = frozenset()  # programs with such a text fail
    asked: list[tuple[str, float]] = field(default_factory=list)  # every trial that was run
    _kept: dict[tuple[str, float], Trial] = field(default_factory=dict)

    def try_out(self, batch: Sequence[Files], *, share: float, questions: int | None = None) -> list[Trial]:
        return [self._trial(files, share) for files in batch]

    def _trial(self, files: Files, fraction: float) -> Trial:
        key = (files[ENTRY], fraction)
        if key not in self._kept:
            self.asked.append(key)
            self._kept[key] = self._run(files, fraction)
        return self._kept[key]

    def _run(self, files: Files, fraction: float) -> Trial:
        if any(text in files[ENTRY] for text in self.failing):
            return Trial(0.0, QUESTIONS, 0.5, "crashed: ValueError: no luck")
        value = expected(files) * (0.8 + 0.2 * fraction)
        return Trial(observe(value, files, "dev", 250) if self.noisy else value, QUESTIONS, 2.0 * fraction)


def observe(value: float, files: Files, split: str, n: int) -> float:
    """`value` with the noise of a paired difference on `n` questions of that split."""
    return value + random.Random(f"{split}:{files[ENTRY]}").gauss(0, math.sqrt(0.3 * value * (1 - value) / n))


def recipes(context: ProposerContext, seed: int = 0, trials: int = 8, rungs: Sequence[float] = (0.25, 1.0)) -> Recipes:
    context = ProposerContext(context.task_name, context.task_folder, context.reference, context.entry, seed)
    return Recipes(context, trials=trials, rungs=list(rungs), keep_fraction=0.34, trial_questions=None)


def judge(n: int, proposal: Proposal, best: PastGeneration | None, noisy: bool = False) -> PastGeneration:
    """The Ladder rule on val: accepted when better by more than its standard error."""
    value = expected(proposal.files)
    value = observe(value, proposal.files, "val", 1000) if noisy else value
    error = math.sqrt(0.3 * 2 * value * (1 - value) / 1000) if noisy else 0.0
    accepted = best is None or best.val is None or value > best.val.value + error
    notes: Mapping[str, object] = json.loads(json.dumps(dict(proposal.notes)))  # as the journal gives them back
    score = Score(value, (value - 0.03, value + 0.03), 1000)
    why = "better than the incumbent" if accepted else "not better than the incumbent"
    return PastGeneration(n, Lever.HARNESS, proposal.title, "accepted" if accepted else "rejected", why, score, notes)


def experiment(proposer: Proposer, bench: Bench, generations: int) -> tuple[list[Proposal], list[PastGeneration]]:
    """Proposals, the last one perhaps STOP, and the verdicts on them."""
    proposals: list[Proposal] = []
    history: list[PastGeneration] = []
    best: PastGeneration | None = None
    for n in range(1, generations + 1):
        brief = Brief(n, generations, None, tuple(history), best.n if best else None, True)
        proposals.append(proposer.propose(brief, bench))
        if proposals[-1].lever is Lever.STOP:
            break
        history.append(judge(n, proposals[-1], best, bench.noisy))
        best = history[-1] if history[-1].status == "accepted" else best
    return proposals, history
