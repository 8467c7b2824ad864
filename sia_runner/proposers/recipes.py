"""The offline proposer: searches a task's declared harness recipes by their scores on dev questions."""

from collections.abc import Sequence
from itertools import pairwise
from random import Random

from sia_runner.proposers.files import read_harness_files
from sia_runner.proposers.protocol import Brief, ProposerContext, ProposerError, Workbench
from sia_runner.proposers.recipe_memory import SearchMemory, select_variant, worse_than_incumbent
from sia_runner.proposers.recipe_report import IncumbentEvidence, SearchReport, render_recipe_template
from sia_runner.proposers.recipe_search import SuccessiveHalving, VariantStudy, variants_for_breadth, variants_for_depth
from sia_runner.proposers.recipe_space import Space, Variant, load_space
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
        return self._search(self._space, brief, workbench)

    def _reference(self) -> Proposal:
        files, space = read_harness_files(self._context.reference, self._context.entry), self._space
        same = [v for v in space.defaults() if {self._context.entry: space.program(v)} == files] if space else []
        return Proposal(
            Lever.HARNESS,
            "The task's reference harness as it is: the baseline that every later generation is compared with.",
            files=files,
            title="reference harness",
            improvement=render_recipe_template("baseline.md.j2", task=self._context.task_name, names=sorted(files)),
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
        """Return the variants to try: of all recipes at first, then around the incumbent.

        If the incumbent is no recipe, the best variant measured at the last rung takes its place.
        """
        rng = Random(f"{self._context.seed}:{n}")
        if not memory.trials_at(self._rungs[0]):
            return variants_for_breadth(space, memory, rng, self._trials)
        study = VariantStudy(space, memory, self._rungs, seed=rng.getrandbits(32))
        anchor = memory.incumbent
        merits = {key: merit for key, merit in memory.merits(self._rungs[-1]).items() if merit is not None}
        if anchor is None and merits:
            anchor = memory.variant(max(sorted(merits), key=lambda key: merits[key]))
        return variants_for_depth(space, memory, study, anchor, rng, self._trials)


def _why_nothing(memory: SearchMemory) -> str:
    failures = [measured.trial.failure for measured in memory.trials.values() if measured.trial.failure]
    if failures:
        return f"{len(failures)} variants failed on dev questions, the last with: {failures[-1]}"
    return "every variant of the task's recipes was proposed"
