"""The offline proposer: searches a task's declared harness recipes by their scores on dev questions."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from random import Random

from sia_runner.proposers.files import read_harness_files
from sia_runner.proposers.prompting import render_prompt
from sia_runner.proposers.protocol import Brief, ProposerContext, ProposerError, Workbench
from sia_runner.proposers.recipe_memory import (
    MeasuredVariant,
    SearchMemory,
    difference_error,
    select_variant,
    worse_than_incumbent,
)
from sia_runner.proposers.recipe_report import IncumbentEvidence, SearchReport
from sia_runner.proposers.recipe_space import Recipe, Space, Variant, load_space
from sia_runner.records import Lever, Proposal


class Recipes:
    """A proposer that searches recipes: first the reference harness, then all recipes, then around the incumbent.

    Every choice derives from (seed, n, notes in the history, trial results), so that a resumed run proposes the same.
    """

    def __init__(
        self,
        context: ProposerContext,
        *,
        trials: int,
        rungs: Sequence[float],
        keep_fraction: float,
        trial_questions: int | None,
    ) -> None:
        if any(higher <= lower for lower, higher in pairwise(rungs)):
            raise ProposerError(f"meta_agent.rungs={list(rungs)} must rise, for example [0.25, 1.0]")
        self._context, self._trials, self._rungs = context, trials, list(rungs)
        self._keep, self._questions = keep_fraction, trial_questions
        self._space = load_space(context.task_folder / "recipes")

    def propose(self, brief: Brief, workbench: Workbench) -> Proposal:
        """Propose the reference harness in generation 1 and the best measured variant afterwards."""
        if brief.n == 1:
            return self._reference()
        if self._space is None:
            where = "recipes/recipes.yaml in the task's folder"
            return Proposal(Lever.STOP, f"task {self._context.task_name} declares no recipes; expected {where}")
        return self._draw(self._space, brief.n) if brief.blind else self._search(self._space, brief, workbench)

    def _draw(self, space: Space, n: int) -> Proposal:
        """Return a variant drawn at random, each recipe as likely as the others: a search without feedback."""
        rng = Random(f"{self._context.seed}:{n}:blind")
        variant = rng.choice(list(space.recipes.values())).sample(rng)
        constants = ", ".join(f"{name}={value}" for name, value in variant.constants.items())
        return Proposal(
            Lever.HARNESS,
            f"Drawn at random from the task's recipes, without feedback: {variant.recipe} with {constants or 'none'}.",
            files={self._context.entry: space.program(variant)},
            title=f"random {variant.recipe}",
            notes={"recipe": variant.recipe, "constants": dict(variant.constants)},
        )

    def _reference(self) -> Proposal:
        files, space = read_harness_files(self._context.reference, self._context.entry), self._space
        same = [v for v in space.defaults() if {self._context.entry: space.program(v)} == files] if space else []
        return Proposal(
            Lever.HARNESS,
            "The task's reference harness as it is: the baseline that every later generation is compared with.",
            files=files,
            title="reference harness",
            improvement=render_prompt("recipes/baseline.md.j2", task=self._context.task_name, names=sorted(files)),
            notes={"recipe": same[0].recipe, "constants": dict(same[0].constants)} if same else {},
        )

    def _search(self, space: Space, brief: Brief, workbench: Workbench) -> Proposal:
        memory, evidence = SearchMemory(brief, space), IncumbentEvidence.read(brief.evidence)
        last_rung, entry = self._rungs[-1], self._context.entry
        pool = self._pool(space, memory, brief.n)
        halving = SuccessiveHalving(space, entry, self._rungs, self._keep, self._questions, workbench)
        places = max(self._trials, len(pool))
        tried = memory.trials.get((memory.incumbent.key, last_rung)) if memory.incumbent else None
        baseline = tried.trial.value if tried and not tried.trial.failure else evidence.dev_value
        trials = halving.climb(pool, places, memory)
        selected = select_variant(memory, last_rung, baseline)
        if selected is None or worse_than_incumbent(memory, selected):
            # more trials cost less than a generation that will be rejected
            trials += halving.climb((), places, memory)
            selected = select_variant(memory, last_rung, baseline)
        if selected is None:
            return Proposal(Lever.STOP, f"nothing left to propose: {_why_nothing(memory)}")
        if not pool and worse_than_incumbent(memory, selected):
            reason = "every variant of the recipes was tried; those left are worse than the incumbent on dev"
            return Proposal(Lever.STOP, reason)
        report = SearchReport(brief, space, memory, evidence, selected, trials)
        variant = selected.chosen.variant
        return Proposal(
            Lever.HARNESS,
            report.rationale(),
            files={entry: space.program(variant)},
            title=report.title(),
            improvement=report.improvement(),
            notes={
                "recipe": variant.recipe,
                "constants": dict(variant.constants),
                "trials": [measured.to_json() for measured in trials],
            },
        )

    def _pool(self, space: Space, memory: SearchMemory, n: int) -> list[Variant]:
        """Return the variants to try: of all recipes at first, then half around the parent and half from the study.

        Merges of parent and partner, where both are of one recipe, come before those around the parent. Where the
        parent is no recipe, the best variant of the last rung takes its place. Where these yield nothing new, even
        samples follow, then the unused variants of a small space.
        """
        rng = Random(f"{self._context.seed}:{n}")
        if not memory.trials_at(self._rungs[0]):
            return variants_for_breadth(space, memory, rng, self._trials)
        from sia_runner.proposers.recipe_study import VariantStudy

        study = VariantStudy(space, memory, self._rungs, seed=rng.getrandbits(32))
        anchor, partner = memory.parent, memory.partner
        merits = {key: merit for key, merit in memory.merits(self._rungs[-1]).items() if merit is not None}
        if anchor is None and merits:
            anchor = memory.variant(max(sorted(merits), key=lambda key: merits[key]))
        recipes, count = list(space.recipes.values()), self._trials
        around = neighbours(space.recipes[anchor.recipe], anchor, rng, memory.rejections) if anchor else iter(())
        same_recipe = anchor and partner and anchor.recipe == partner.recipe
        merges = crossovers(anchor, partner, rng) if anchor and partner and same_recipe else iter(())
        sources = [
            (islice(merges, _DRAWS * count), (count + 1) // 2),
            (islice(around, _DRAWS * count), (count + 1) // 2),
            ((study.ask() for _ in range(_STUDY_DRAWS * count)), count),
            ((rng.choice(recipes).sample(rng) for _ in range(_DRAWS * count)), count),
            ((variant for recipe in recipes for variant in islice(recipe.variants(), _LISTED)), count),
        ]
        variants: list[Variant] = []
        for source, up_to in sources:
            known = memory.tried_keys() | {variant.key for variant in variants}
            variants += _untried(source, known, up_to - len(variants))
        return variants


def _why_nothing(memory: SearchMemory) -> str:
    failures = [measured.trial.failure for measured in memory.trials.values() if measured.trial.failure]
    if failures:
        return f"{len(failures)} variants failed on dev questions, the last with: {failures[-1]}"
    return "every variant of the task's recipes was proposed"


_STEP = 0.15  # of a constant's range; a rejected generation adds the same again
_DRAWS = 40  # tries for each new variant before the space around counts as exhausted
_STUDY_DRAWS = 6  # the same of the study, which takes milliseconds each
_LISTED = 4096  # variants of one recipe that are enumerated when draws find nothing new


def variants_for_breadth(space: Space, memory: SearchMemory, rng: Random, count: int) -> list[Variant]:
    """Return every recipe at its defaults, filled up to `count` with samples of the recipes in turn."""
    recipes = list(space.recipes.values())
    samples = (recipes[i % len(recipes)].sample(rng) for i in range(_DRAWS * count))
    defaults = space.defaults()
    return _untried([*defaults, *samples], memory.tried_keys(), max(count, len(defaults)))


def neighbours(recipe: Recipe, anchor: Variant, rng: Random, rejections: int) -> Iterator[Variant]:
    """Yield endless variants with one or two constants moved; more constants and longer steps after rejections."""
    names = list(recipe.constants)
    while names:
        moved = min(len(names), rng.randint(1, 2 + rejections))
        changed = {
            name: recipe.constants[name].nudge(anchor.constants[name], rng, _STEP * (1 + rejections))
            for name in sorted(rng.sample(names, moved))
        }
        yield Variant(recipe.name, {**anchor.constants, **changed})


def crossovers(first: Variant, second: Variant, rng: Random) -> Iterator[Variant]:
    """Yield endless variants whose constants are those of either of two variants of one recipe."""
    while True:
        yield Variant(first.recipe, {name: rng.choice((first, second)).constants[name] for name in first.constants})


def _untried(candidates: Iterable[Variant], tried_keys: set[str], count: int) -> list[Variant]:
    """Return the first `count` distinct candidates that are not in `tried_keys`."""
    variants: dict[str, Variant] = {}
    if count > 0:
        for variant in candidates:
            if variant.key not in tried_keys:
                variants.setdefault(variant.key, variant)
            if len(variants) >= count:
                break
    return list(variants.values())


_CLEARLY = 6.0  # standard errors; many, because little training data flatters simple recipes


class SuccessiveHalving:
    """Successive halving: variants are measured with growing shares of the training data (rungs)."""

    def __init__(
        self, space: Space, entry: str, rungs: Sequence[float], keep: float, questions: int | None, bench: Workbench
    ) -> None:
        self._space, self._entry, self._bench = space, entry, bench
        self._rungs, self._keep, self._questions = rungs, keep, questions

    def climb(self, pool: Sequence[Variant], places: int, memory: SearchMemory) -> list[MeasuredVariant]:
        """Measure `pool` on the first rung, then the best `keep` share of `places` on each next rung, one batch each.

        `pool` holds variants that were never tried. Returns the new trials, which are added to `memory` too.
        """
        trials: list[MeasuredVariant] = []
        for position, rung in enumerate(self._rungs):
            if position:
                places = max(1, int(self._keep * places + 1e-9))
                pool = self._promoted(memory, self._rungs[position - 1], rung, places)
            if pool:
                batch = [{self._entry: self._space.program(variant)} for variant in pool]
                results = self._bench.try_out(batch, share=rung, questions=self._questions)
                measured = [MeasuredVariant(variant, rung, trial) for variant, trial in zip(pool, results, strict=True)]
                memory.add(measured)
                trials += measured
        return trials

    def _promoted(self, memory: SearchMemory, below: float, rung: float, places: int) -> list[Variant]:
        """Return the best variants below a rung; one place goes to another recipe unless it is clearly worse."""
        waiting = [m for m in memory.unproposed(below) if (m.variant.key, rung) not in memory.trials]
        chosen = waiting[:places]
        # another: not yet measured at this rung; after a rejection, not the incumbent's
        settled = {m.variant.recipe for m in chosen[:1]}
        if memory.rejections and memory.incumbent:
            settled.add(memory.incumbent.recipe)
        else:
            settled |= {m.variant.recipe for m in memory.trials_at(rung)}
        others = [m for m in waiting if m.variant.recipe not in settled]
        spare = len(chosen) > 1 or memory.rejections % 2 == 1  # a single place is for another recipe every other time
        if spare and others:
            other, best = others[0], chosen[0]
            doubt = _CLEARLY * difference_error(other.trial.value, best.trial.value, best.trial.n)
            if not memory.merit(best) - memory.merit(other) > doubt > 0:
                chosen[-1] = other
        return [m.variant for m in chosen]
