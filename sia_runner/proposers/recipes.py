"""The offline proposer: searches a task's declared harness recipes by their scores on dev questions."""

from collections.abc import Sequence
from itertools import pairwise
from random import Random

from sia_runner.proposers import recipe_report, recipe_space
from sia_runner.proposers.files import read_harness_files
from sia_runner.proposers.protocol import Brief, ProposerContext, ProposerError, Workbench
from sia_runner.proposers.recipe_memory import MeasuredVariant, SearchMemory, select_variant, worse_than_incumbent
from sia_runner.proposers.recipe_report import IncumbentEvidence
from sia_runner.proposers.recipe_search import SuccessiveHalving, VariantStudy, variants_for_breadth, variants_for_depth
from sia_runner.proposers.recipe_space import Space, Variant
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
        self._space = recipe_space.load_space(context.task_folder / "recipes")

    def propose(self, brief: Brief, workbench: Workbench) -> Proposal:
        """Propose the reference harness in generation 1 and the best measured variant afterwards."""
        if brief.n == 1:
            return self._reference()
        if self._space is None:
            where = "recipes/recipes.yaml in the task's folder"
            return _stop_proposal(f"task {self._context.task_name} declares no recipes; expected {where}")
        return self._search(self._space, brief, workbench)

    def _reference(self) -> Proposal:
        files = read_harness_files(self._context.reference, self._context.entry)
        same = [v for v in self._space.defaults() if self._files(v) == files] if self._space else []
        return Proposal(
            Lever.HARNESS,
            "The task's reference harness as it is: the baseline that every later generation is compared with.",
            files=files,
            title="reference harness",
            improvement=recipe_report.baseline_report(self._context.task_name, sorted(files)),
            notes={"recipe": same[0].recipe, "constants": dict(same[0].constants)} if same else {},
        )

    def _search(self, space: Space, brief: Brief, workbench: Workbench) -> Proposal:
        memory, evidence = SearchMemory(brief, space), IncumbentEvidence.read(brief.evidence)
        pool = self._pool(space, memory, brief.n)
        halving = SuccessiveHalving(space, self._context.entry, self._rungs, self._keep, self._questions, workbench)
        places, baseline = max(self._trials, len(pool)), self._baseline(memory, evidence)
        trials = halving.climb(pool, places, memory)
        selected = select_variant(memory, self._rungs[-1], baseline)
        if selected is None or worse_than_incumbent(
            memory, selected
        ):  # more trials cost less than a generation that will be rejected
            trials += halving.climb((), places, memory)
            selected = select_variant(memory, self._rungs[-1], baseline)
        if selected is None:
            return _stop_proposal(_why_nothing(memory))
        if not pool and worse_than_incumbent(memory, selected):
            return _stop_proposal(
                "every variant of the recipes was tried; those left are worse than the incumbent on dev"
            )
        return self._proposal(
            recipe_report.SearchReport(brief, space, memory, evidence, selected, trials), selected.chosen, trials
        )

    def _pool(self, space: Space, memory: SearchMemory, n: int) -> list[Variant]:
        rng = Random(f"{self._context.seed}:{n}")
        if not memory.trials_at(self._rungs[0]):
            return variants_for_breadth(space, memory, rng, self._trials)
        study = VariantStudy(space, memory, self._rungs, seed=rng.getrandbits(32))
        return variants_for_depth(space, memory, study, self._anchor(memory), rng, self._trials)

    def _anchor(self, memory: SearchMemory) -> Variant | None:
        """Return the incumbent's variant; if it is no recipe, the best one measured at the last rung."""
        if memory.incumbent is not None:
            return memory.incumbent
        merits = {key: merit for key, merit in memory.merits(self._rungs[-1]).items() if merit is not None}
        return memory.variant(max(sorted(merits), key=lambda key: merits[key])) if merits else None

    def _baseline(self, memory: SearchMemory, evidence: IncumbentEvidence) -> float | None:
        """Return the incumbent's dev value: from its trial, else from its own run."""
        tried = memory.get(memory.incumbent, self._rungs[-1]) if memory.incumbent else None
        return tried.trial.value if tried and not tried.trial.failure else evidence.dev_value

    def _proposal(
        self, story: recipe_report.SearchReport, chosen: MeasuredVariant, trials: Sequence[MeasuredVariant]
    ) -> Proposal:
        variant = chosen.variant
        return Proposal(
            Lever.HARNESS,
            story.rationale(),
            files=self._files(variant),
            title=story.title(),
            improvement=story.improvement(),
            notes={
                "recipe": variant.recipe,
                "constants": dict(variant.constants),
                "trials": [measured.to_json() for measured in trials],
            },
        )

    def _files(self, variant: Variant) -> dict[str, str]:
        return {self._context.entry: self._space.program(variant)} if self._space else {}


def _why_nothing(memory: SearchMemory) -> str:
    failed = memory.failures()
    if failed:
        return f"nothing left to propose: {len(failed)} variants failed on dev questions, the last with: {failed[-1]}"
    return "nothing left to propose: every variant of the task's recipes was proposed"


def _stop_proposal(reason: str) -> Proposal:
    return Proposal(Lever.STOP, reason)
