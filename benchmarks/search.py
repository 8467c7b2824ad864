"""What each way to search gains for the same money, in simulated worlds whose truth is known.

python benchmarks/search.py [--seeds 200] [--first-seed 1000] [--processes 2]

Parents, partners, the best of parallel proposals, verdicts and models are chosen by the product's own code and
settings (conf/search); worlds and proposers are simulated (_search_world.py). A proposal costs 1, and so does a run on
dev and val; a trial on dev costs its share of that. All ways get the same budget, and the same worlds. Prints the
tables of benchmarks/README.md: the gain in truth of the last incumbent over the first harness, in points for 10 units
of cost, for the first way (greedy or, of models, taking turns), and for the others the paired difference to that, with
95% intervals. The settings in conf/search were chosen on seeds below 100.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from random import Random
from statistics import NormalDist, fmean, stdev
from typing import Any

import yaml
from _search_world import DEV, LANDSCAPES, VAL, Harness, Landscape, World, merge, propose, title_of
from _table import aligned

from sia_runner.config.experiment import SearchConfig
from sia_runner.experiment.evidence.history import distil_lessons
from sia_runner.records import Lever, Outcome, PastGeneration, Status, Trial, Usage
from sia_runner.selection.bandit import choose_model
from sia_runner.selection.parents import ParentSearch, best_trial, verdicts_available
from sia_runner.selection.scoring import accept_or_reject, score_with_interval
from sia_runner.system import bundled_folder

DEV_SHARE = DEV / (DEV + VAL)  # cost of a trial on dev
Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to search: a choice of the group `search`, and keys of it that differ."""

    name: str
    search: str = "greedy"
    keys: Mapping[str, Any] = field(default_factory=dict[str, Any])
    memory: bool = False  # the proposer reads evidence/lessons.md, and mostly heeds it

    def config(self) -> SearchConfig:
        """Return the configuration that `search=NAME` composes."""
        folder, keys = bundled_folder("conf") / "search", dict[str, Any]()
        for name in ("_shared", self.search):
            keys |= yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
        keys.pop("defaults", None)
        return SearchConfig.model_validate(keys | dict(self.keys))


WAYS = (
    Way("greedy"),
    Way("last", "last"),
    Way("archive", "archive"),
    Way("pareto", "pareto"),
    Way("pareto, no merges", "pareto", {"merge_fraction": 0.0}),
    Way("pareto, questions", "pareto", {"dev_groups": None}),
    Way("islands", "islands"),
    Way("width 3", keys={"proposals_per_generation": 3}),
    Way("in flight 3", keys={"parallel_candidates": 3}),
    Way("greedy, memory", memory=True),
    Way("islands, memory", "islands", memory=True),
)


@dataclass(frozen=True, slots=True)
class Model:
    """A proposer's model: what a proposal costs, and how often it is a good one."""

    name: str
    price: float
    skill: float  # share of proposals that are the world's proposer's own; the others change nothing


CLOSE = (Model("small", 0.2, 0.3), Model("medium", 1.0, 0.8), Model("large", 6.0, 1.0))
APART = (Model("small", 0.1, 0.05), Model("medium", 1.0, 0.8), Model("large", 15.0, 1.0))
BUDGETS = (8, 40)  # 4 generations, the default, and 20
BUDGET_OF_MODELS = 120
HEED = 0.8  # share of the lessons that a proposer heeds
ONE_MODEL = (Model("proposer", 1.0, 1.0),)


class Simulation:
    """One search in one world, until the budget is spent."""

    def __init__(self, world: World, way: Way, models: Sequence[Model] = ONE_MODEL, *, in_turn: bool = False) -> None:
        self._in_turn = in_turn  # the models take turns, whatever they gain
        self._world, self._search, self._models = world, way.config(), {model.name: model for model in models}
        self._parents = ParentSearch(self._search, world.seed, True, lambda n: self._dev[n])
        self._harnesses: dict[int, Harness] = {}
        self._dev: dict[int, dict[str, float]] = {}
        self._memory, self._dev_outcomes = way.memory, dict[int, list[Outcome]]()
        self._val: dict[int, list[Outcome]] = {}
        self._history: list[PastGeneration] = []
        self.spent = 0.0
        self.chosen: list[str] = []  # the model of each generation

    def gain(self, budget: float) -> float:
        """Return the gain in truth of the last incumbent over the first harness, in points."""
        self._evaluate(1, Harness(), None, None, Usage())
        while self.spent < budget:
            self._generation(len(self._history) + 1)
        best = self._incumbent(self._history)
        return 100 * (self._world.true_score(self._harnesses[best or 1]) - self._world.true_score(self._harnesses[1]))

    def _generation(self, n: int) -> None:
        available = self._history[: verdicts_available(n, self._search.parallel_candidates)]
        names = [*self._models]
        chosen = choose_model(names, available, f"{self._world.seed}:{n}", higher_is_better=True)
        model = self._models[names[n % len(names)] if self._in_turn else chosen]
        width, before = self._search.proposals_per_generation, self.spent
        proposals = [self._propose(n, k, available, model) for k in range(width)]
        best = 0
        if width > 1:
            trials = {k: self._try(harness, f"{n}:{k}") for k, (harness, _, _) in enumerate(proposals)}
            best = best_trial(trials, higher_is_better=True)
        self.spent += model.price * width
        harness, parent, partner = proposals[best]
        self._evaluate(n, harness, parent, partner, Usage(usd=self.spent + 1 - before), model.name)

    def _propose(
        self, n: int, sibling: int, available: Sequence[PastGeneration], model: Model
    ) -> tuple[Harness, int | None, int | None]:
        choice = self._parents.choose(n, available, self._incumbent(available), sibling)
        rng, extended = Random(f"{self._world.seed}:{n}:{sibling}:proposer"), choice.parent or 1
        harness = self._harnesses[extended]
        if rng.random() > model.skill:
            return harness, extended, None
        if choice.partner is not None:
            pair = harness, self._harnesses[choice.partner]
            merged = merge(self._world, pair, (self._dev[extended], self._dev[choice.partner]), rng)
            return merged, extended, choice.partner
        avoid = self._lessons(available, rng) if self._memory else set[str]()
        return propose(self._world, harness, self._dev[extended], rng, avoid), extended, None

    def _lessons(self, available: Sequence[PastGeneration], rng: Random) -> set[str]:
        """Return the titles that the product's list names, most of them: a proposer does not heed all it reads."""
        lessons = distil_lessons(available, self._dev_outcomes.__getitem__, higher_is_better=True)
        return {lesson.title for lesson in lessons if rng.random() < HEED}

    def _try(self, harness: Harness, run: str) -> Trial:
        dev, _ = self._world.answer(harness, f"trial {run}")
        self.spent += DEV_SHARE
        return Trial(fmean(outcome.value for outcome in dev), len(dev), 0.0)

    def _evaluate(
        self, n: int, harness: Harness, parent: int | None, partner: int | None, usage: Usage, model: str = ""
    ) -> None:
        dev, val = self._world.answer(harness, f"run {n}")
        self.spent += 1
        incumbent = self._incumbent(self._history)
        old, rule = None if incumbent is None else self._val[incumbent], self._search.accept
        verdict = accept_or_reject(val, old, str(rule.rule), rule.level, higher_is_better=True, seed=self._world.seed)
        self._harnesses[n], self._val[n] = harness, val
        self._dev_outcomes[n] = dev
        self._dev[n] = {outcome.unit: outcome.value for outcome in dev}
        self.chosen.append(model)
        self._history.append(
            PastGeneration(
                n,
                Lever.HARNESS,
                title_of(harness, self._harnesses[parent]) if parent else "first",
                verdict.status,
                verdict.reason,
                score_with_interval(val),
                parent=parent,
                partner=partner,
                model=model,
                difference=verdict.difference,
                standard_error=verdict.standard_error,
                usage=usage,
            )
        )

    @staticmethod
    def _incumbent(history: Sequence[PastGeneration]) -> int | None:
        return next((past.n for past in reversed(history) if past.status == Status.ACCEPTED), None)


def gains_of(landscape: Landscape, ways: Sequence[Way], budget: float, seed: int) -> list[float]:
    """Return the gain of each way in the world of one seed, for 10 units of cost."""
    world = World(landscape, seed)
    return [10 * Simulation(world, way).gain(budget) / budget for way in ways]


def bandit_gains(landscape: Landscape, models: Sequence[Model], budget: float, seed: int) -> list[float]:
    """Return the gain with the models in turn, with the bandit, and with each model alone, for 10 units of cost."""
    world, greedy = World(landscape, seed), WAYS[0]
    searches = [Simulation(world, greedy, models, in_turn=True), Simulation(world, greedy, models)]
    searches += [Simulation(world, greedy, (model,)) for model in models]
    return [10 * search.gain(budget) / budget for search in searches]


def interval(values: Sequence[float]) -> str:
    """Return the mean with its 95% interval, by the normal approximation."""
    half = Z * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    mean = fmean(values)
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


def table(names: Sequence[str], gains: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Return a row for each way and a column for each world: the gain of the first way, then differences to it."""
    rows = [["way", *gains]]
    for column, name in enumerate(names):
        figures = [[row[column] - (row[0] if column else 0.0) for row in of_seeds] for of_seeds in gains.values()]
        rows.append([name, *map(interval, figures)])
    return aligned(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    with ProcessPoolExecutor(args.processes) as pool:

        def measure(work: Callable[[int], list[float]]) -> list[list[float]]:
            return list(pool.map(work, seeds, chunksize=8))

        for budget in BUDGETS:
            gains = {world.name: measure(partial(gains_of, world, WAYS, budget)) for world in LANDSCAPES}
            print(f"Budget {budget}:\n\n{table([way.name for way in WAYS], gains)}\n", flush=True)
        for label, models in (("close", CLOSE), ("apart", APART)):
            gains = {w.name: measure(partial(bandit_gains, w, models, BUDGET_OF_MODELS)) for w in LANDSCAPES[:3]}
            names = ["in turn", "bandit", *(f"{model.name} alone" for model in models)]
            print(f"Models {label}, budget {BUDGET_OF_MODELS}:\n\n{table(names, gains)}\n", flush=True)


if __name__ == "__main__":
    main()
