"""Makes one generation's proposal: decides between weights and harness, and asks the proposer once or in parallel."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sia_runner.config.experiment import ControlConfig
from sia_runner.config.training import AlgorithmConfig, allowed_algorithms
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.control import first_harness, voted_harness
from sia_runner.experiment.evidence.folder import write_evidence
from sia_runner.experiment.execution import outcomes_of_split
from sia_runner.experiment.harness_files import read_harness
from sia_runner.experiment.weights.decision import (
    LeverDecision,
    TrainingDecision,
    check_proposed_training,
    decide_lever,
    decide_training,
)
from sia_runner.experiment.workbench import ProposalWorkbench
from sia_runner.proposers.protocol import Brief, WeightsLever
from sia_runner.records import Json, Lever, PastGeneration, Proposal, Trial
from sia_runner.selection.bandit import choose_model
from sia_runner.selection.parents import ParentChoice, ParentSearch, best_trial
from sia_runner.store.directions import NEWEST_DIRECTIONS, read_directions
from sia_runner.store.journal import JournalReader, weights_plan_rejected
from sia_runner.store.run_directory import read_outcomes, remove_tree
from sia_runner.system import run_parallel


@dataclass(frozen=True, slots=True)
class ProposalResult:
    """A proposal, and the parallel ones with their dev values, if any; `fault` is one line when the proposer failed."""

    proposal: Proposal
    siblings: list[Json] = field(default_factory=list[Json])
    fault: str = ""


def failed_proposal(reason: str, evidence: Mapping[str, Any] | None = None) -> ProposalResult:
    """Return the result of a proposer that failed."""
    return ProposalResult(Proposal(Lever.HARNESS, reason, title="no proposal", evidence=evidence or {}), fault=reason)


@dataclass(frozen=True, slots=True)
class ProposalStep:
    """The making of generation `n`'s proposal, from the history and the incumbent that count for it."""

    context: RunContext
    n: int
    history: Sequence[PastGeneration]
    incumbent: int | None

    @property
    def model(self) -> str | None:
        """The model that the proposer calls, of several that are configured; None: its provider's own."""
        config, better = self.context.config, self.context.task.higher_is_better
        models = config.search.proposer_models
        return choose_model(models, self.history, f"{config.seed}:{self.n}", better) if models else None

    def propose(self) -> ProposalResult:
        """Propose the weights lever where it is due, or where the proposer has nothing left; else ask the proposer.

        A proposer that can use the weights lever is told that it is due, and decides, but for a guaranteed update.
        """
        context, n, incumbent = self.context, self.n, self.incumbent
        if context.config.control:
            return ProposalResult(self._control_proposal(context.config.control))
        lever = decide_lever(context.config, self.history, n, incumbent)
        untrained: Json = {}
        if incumbent and (lever.guaranteed or (lever.due_reason and not self._can_train)):
            decision = decide_training(context, n, incumbent, lever.due_reason)
            if decision.algorithm:
                return ProposalResult(self._training(incumbent, decision.algorithm, decision))
            untrained, lever = decision.evidence, replace(lever, left_alone=decision.reason)
        proposed = self._ask(lever)
        proposal, trainable = proposed.proposal, context.config.trainer.kind != "none"
        if proposal.lever is Lever.STOP and trainable and incumbent and not weights_plan_rejected(self.history):
            why = proposal.rationale
            decision = decide_training(context, n, incumbent, f"the proposer has nothing left to try: {why}")
            if decision.algorithm:
                return ProposalResult(self._training(incumbent, decision.algorithm, decision))
            rationale = f"{why}; nor can the weights be trained: {decision.reason}"
            return replace(proposed, proposal=replace(proposal, rationale=rationale, evidence=decision.evidence))
        if proposal.trains_weights:
            proposed = self._checked_training(proposed, lever.due_reason)
        elif lever.due_reason:
            proposed = replace(proposed, proposal=replace(proposal, evidence={"due": lever.due_reason}))
        evidence = {**untrained, **proposed.proposal.evidence}
        return replace(proposed, proposal=replace(proposed.proposal, evidence=evidence))

    def _control_proposal(self, control: ControlConfig) -> Proposal:
        context, n = self.context, self.n
        if n == 1 and (first := first_harness(control)):
            return first
        if n > 1 and control.arm == "votes":
            stop = Proposal(Lever.STOP, "a vote is all that a voting arm has", title="nothing left to try")
            return voted_harness(context, control) if n == 2 else stop
        lever = decide_lever(context.config, self.history, n, self.incumbent)
        return self._ask_once(n - 1, ParentChoice(None), context.run.generation(n).path, lever)

    @property
    def _can_train(self) -> bool:
        """True if the proposer can use the weights lever; not in parallel: untrained weights have no dev value."""
        config = self.context.config
        single = config.trainer.kind != "none" and config.search.proposals_per_generation == 1
        return single and getattr(self.context.proposer, "pulls_weights", False)

    def _training(self, incumbent: int, algorithm: AlgorithmConfig, decision: TrainingDecision) -> Proposal:
        return Proposal(
            Lever.WEIGHTS,
            decision.reason,
            files=read_harness(self.context.run.generation(incumbent).harness),
            title=f"{algorithm.name} on rollouts",
            algorithm=algorithm.algorithm,
            overrides=algorithm.model_dump(mode="json"),
            parent=incumbent,
            evidence=decision.evidence,
        )

    def _checked_training(self, proposed: ProposalResult, due_reason: str) -> ProposalResult:
        context, proposal = self.context, proposed.proposal
        if proposal.parent is None or not self._can_train:
            return failed_proposal(f"lever {proposal.lever.value} was proposed where the harness is the only one")
        decision = check_proposed_training(context, self.n, proposal.parent, proposal, due_reason)
        if decision.algorithm is None:
            return failed_proposal(f"the weights were not trained: {decision.reason}", decision.evidence)
        unchanged = dict(proposal.files) == read_harness(context.run.generation(proposal.parent).harness)
        settled = replace(
            proposal,
            lever=Lever.WEIGHTS if unchanged else Lever.BOTH,
            algorithm=decision.algorithm.algorithm,
            overrides=decision.algorithm.model_dump(mode="json"),
            rationale=f"{proposal.rationale}\n\n{decision.reason}",
            evidence=decision.evidence,
        )
        return replace(proposed, proposal=settled)

    def _ask(self, lever: LeverDecision) -> ProposalResult:
        """Ask for one proposal, or for several, each in its own folder, of which the best is returned."""
        search, generation = self.context.config.search, self.context.run.generation(self.n)
        # generation 1 has one: there is no evidence yet to choose between first harnesses
        width = search.proposals_per_generation if self.n > 1 else 1
        if width == 1:
            # proposals in progress share most of the history and should differ: this is its index among them
            index = 0 if self.n == 1 else (self.n - 2) % search.parallel_candidates
            return ProposalResult(self._ask_once(index, self._parents(0), generation.path, lever))

        def ask(k: int) -> Proposal:
            return self._ask_once(k, self._parents(k), generation.sibling(k), lever)

        return self._best_sibling(run_parallel(ask, range(width), width))

    def _parents(self, sibling: int) -> ParentChoice:
        config, task = self.context.config, self.context.task
        search = ParentSearch(config.search, config.seed, task.higher_is_better, self._dev_values)
        return search.choose(self.n, self.history, self.incumbent, sibling)

    def _dev_values(self, n: int) -> dict[str, float]:
        outcomes = read_outcomes(self.context.run.generation(n).scores)
        return {outcome.unit: outcome.value for outcome in outcomes_of_split(self.context, outcomes, "dev")}

    def _ask_once(self, sibling: int, parents: ParentChoice, folder: Path, lever: LeverDecision) -> Proposal:
        context, n, parent, partner = self.context, self.n, parents.parent, parents.partner
        folder.mkdir(parents=True, exist_ok=True)
        blind = context.config.control is not None and n > 1
        evidence = folder / "evidence" if n > 1 and not blind else None
        if evidence:
            left_alone = lever.left_alone
            write_evidence(
                context, n, self.history, self.incumbent, parent, evidence, left_alone=left_alone, partner=partner
            )
        directions = read_directions(JournalReader(context.run.journal), n)
        brief = Brief(
            n=n,
            max_gen=context.config.max_gen,
            evidence=evidence,
            history=() if blind else tuple(self.history),
            incumbent=None if blind else self.incumbent,
            higher_is_better=context.task.higher_is_better,
            parent=parent,
            partner=partner,
            weights=self._weights_lever(lever.due_reason) if parent and self._can_train else None,
            sibling=sibling,
            blind=blind,
            directions=tuple(direction.text for direction in directions[-NEWEST_DIRECTIONS:]),
        )
        proposal = context.proposer.propose(brief, ProposalWorkbench(context, n, folder, parent, self.model))
        return replace(proposal, parent=parent, partner=partner, evidence={})

    def _weights_lever(self, due_reason: str) -> WeightsLever:
        from sia_runner.selection.algorithm_choice import algorithm_purpose

        purposes = {
            name: algorithm_purpose(algorithm.algorithm) or "an algorithm of the user's own"
            for name, algorithm in allowed_algorithms(self.context.config.trainer).items()
        }
        return WeightsLever(purposes, due_reason)

    def _best_sibling(self, proposals: Sequence[Proposal]) -> ProposalResult:
        """Return the best proposal by dev value; a tie goes to the first. STOP wins only where every sibling stops."""
        context, generation = self.context, self.context.run.generation(self.n)
        trials = dict[int, Trial]()
        for k, proposal in enumerate(proposals):
            if proposal.lever is not Lever.STOP:
                workbench = ProposalWorkbench(context, self.n, generation.path, proposal.parent)
                (trials[k],) = workbench.try_out([proposal.files], share=1.0)
        if not trials:
            return ProposalResult(proposals[0])
        best = best_trial(trials, context.task.higher_is_better)
        untried = Trial(0.0, 0, 0.0)
        siblings: list[Json] = [
            {
                "title": proposal.title,
                "rationale": proposal.rationale,
                "parent": proposal.parent,
                "dev": trials[k].value if k in trials and not trials[k].failure else None,
                "n": trials.get(k, untried).n,
                "failure": trials.get(k, untried).failure,
                "chosen": k == best,
            }
            for k, proposal in enumerate(proposals)
        ]
        remove_tree(generation.evidence)
        shutil.copytree(generation.sibling(best) / "evidence", generation.evidence, symlinks=True)
        return ProposalResult(proposals[best], siblings)
