"""Makes one generation's proposal: decides between weights and harness, and asks the proposer.

The proposer is asked once, or several times in parallel, of which the best on dev questions is taken.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sia_runner.config.experiment import Experiment
from sia_runner.config.training import AlgorithmConfig, allowed_algorithms
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.evidence.folder import write_evidence
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
from sia_runner.selection.parents import choose_parent
from sia_runner.store.journal import weights_plan_rejected
from sia_runner.store.run_directory import RunDir, remove_tree
from sia_runner.system import run_parallel


@dataclass(frozen=True, slots=True)
class ProposalResult:
    """A proposal.

    `siblings` lists every parallel proposal with its dev value, in order; empty for a single one. `fault` is one line
    when the proposer failed.
    """

    proposal: Proposal
    siblings: list[Json] = field(default_factory=list)
    fault: str = ""


def failed_proposal(reason: str, evidence: Mapping[str, Any] | None = None) -> ProposalResult:
    """Return the result of a proposer that failed."""
    return ProposalResult(Proposal(Lever.HARNESS, reason, title="no proposal", evidence=evidence or {}), fault=reason)


def can_train_weights(context: RunContext) -> bool:
    """Return whether the proposer can use the weights lever.

    Parallel proposals cannot: untrained weights cannot be compared on dev.
    """
    width = context.config.search.proposals_per_generation
    return width == 1 and getattr(context.proposer, "pulls_weights", False)


def ask_proposer(
    context: RunContext,
    n: int,
    history: Sequence[PastGeneration],
    incumbent: int | None,
    weights_turn: LeverDecision,
) -> ProposalResult:
    """Ask for one proposal, or for several of which the best is returned.

    Each sibling works in its own folder, on evidence about the candidate that it extends.
    """
    config = context.config
    # generation 1 has one: there is no evidence yet to choose between first harnesses
    width = config.search.proposals_per_generation if n > 1 else 1
    better = context.task.higher_is_better

    def parent(sibling: int) -> int | None:
        return choose_parent(
            context.config.search,
            history,
            incumbent,
            seed=context.config.seed,
            n=n,
            sibling=sibling,
            higher_is_better=better,
        )

    parents = [parent(sibling) for sibling in range(width)]

    def ask_sibling(sibling: int) -> Proposal:
        return _ask_once(context, n, history, incumbent, parents[sibling % width], sibling, width, weights_turn)

    if width == 1:
        return ProposalResult(ask_sibling(_parallel_index(config, n)))
    return _best_sibling(context, n, run_parallel(ask_sibling, range(width), width))


def _parallel_index(config: Experiment, n: int) -> int:
    """Return this proposal's index among those in progress: they share most of the history and should differ."""
    return 0 if n == 1 else (n - 2) % config.search.parallel_candidates


def _ask_once(
    context: RunContext,
    n: int,
    history: Sequence[PastGeneration],
    incumbent: int | None,
    parent: int | None,
    sibling: int,
    width: int,
    weights_turn: LeverDecision,
) -> Proposal:
    generation = context.run.generation(n)
    folder = generation.path if width == 1 else generation.desk(sibling)
    folder.mkdir(parents=True, exist_ok=True)
    evidence_folder: Path | None = None
    if n > 1:
        evidence_folder = folder / "evidence"
        write_evidence(context, n, history, incumbent, parent, evidence_folder, left_alone=weights_turn.left_alone)
    brief = Brief(
        n=n,
        max_gen=context.config.max_gen,
        evidence=evidence_folder,
        history=tuple(history),
        incumbent=incumbent,
        higher_is_better=context.task.higher_is_better,
        parent=parent,
        weights=_weights_lever(context, weights_turn) if parent else None,
        sibling=sibling,
    )
    proposal = context.proposer.propose(brief, ProposalWorkbench(context, n, folder, parent))
    return replace(proposal, parent=parent, evidence={})


def _weights_lever(context: RunContext, weights_turn: LeverDecision) -> WeightsLever | None:
    """Return the weights lever for the proposer; None where it may not use it."""
    if context.config.trainer.kind == "none" or not can_train_weights(context):
        return None
    from sia_runner.selection.algorithm_choice import algorithm_purpose

    return WeightsLever(
        {
            name: algorithm_purpose(algorithm.algorithm) or "an algorithm of the user's own"
            for name, algorithm in allowed_algorithms(context.config.trainer).items()
        },
        weights_turn.due_reason,
    )


def _best_sibling(context: RunContext, n: int, proposals: Sequence[Proposal]) -> ProposalResult:
    """Return the best proposal by dev value; a tie goes to the first. STOP wins only where every sibling stops."""
    candidates = [index for index, proposal in enumerate(proposals) if proposal.lever is not Lever.STOP]
    if not candidates:
        return ProposalResult(proposals[0])
    trials = {k: _trial_of(context, n, proposals[k]) for k in candidates}
    sign = 1 if context.task.higher_is_better else -1
    best = max(candidates, key=lambda k: (not trials[k].failure, sign * trials[k].value, -k))
    siblings = [_sibling_record(proposals[k], trials.get(k), k == best) for k in range(len(proposals))]
    generation = context.run.generation(n)
    remove_tree(generation.evidence)
    shutil.copytree(generation.desk(best) / "evidence", generation.evidence, symlinks=True)
    return ProposalResult(proposals[best], siblings)


def _trial_of(context: RunContext, n: int, proposal: Proposal) -> Trial:
    bench = ProposalWorkbench(context, n, context.run.generation(n).path, proposal.parent)
    return bench.try_out([proposal.files], share=1.0)[0]


def _sibling_record(proposal: Proposal, trial: Trial | None, is_best: bool) -> Json:
    return {
        "title": proposal.title,
        "rationale": proposal.rationale,
        "parent": proposal.parent,
        "dev": trial.value if trial and not trial.failure else None,
        "n": trial.n if trial else 0,
        "failure": trial.failure if trial else "",
        "chosen": is_best,
    }


def propose(context: RunContext, n: int, history: Sequence[PastGeneration], incumbent: int | None) -> ProposalResult:
    """Propose the weights lever where it is due, or where the proposer has nothing left; else ask the proposer.

    A proposer that can use the weights lever is told that it is due, and decides. The guarantee of
    `lever.latest_fraction` always holds.
    """
    weights_turn = decide_lever(context.config, history, n, incumbent)
    untrained: Json = {}
    if incumbent and (weights_turn.guaranteed or (weights_turn.due_reason and not can_train_weights(context))):
        decision = decide_training(context, n, incumbent, weights_turn.due_reason)
        if decision.algorithm:
            return _weights_proposal(context.run, incumbent, decision, decision.algorithm)
        untrained, weights_turn = decision.evidence, replace(weights_turn, left_alone=decision.reason)
    proposed = _proposer_choice(context, n, history, incumbent, weights_turn)
    stopped = proposed.proposal.lever is Lever.STOP
    if stopped and context.config.trainer.kind != "none" and incumbent and not weights_plan_rejected(history):
        return _train_instead_of_stopping(context, n, incumbent, proposed)
    return _with_evidence(proposed, {**untrained, **proposed.proposal.evidence})


def _train_instead_of_stopping(context: RunContext, n: int, incumbent: int, stopped: ProposalResult) -> ProposalResult:
    """Train the weights instead of stopping for lack of harnesses, where the rules allow it."""
    why = stopped.proposal.rationale
    decision = decide_training(context, n, incumbent, f"the proposer has nothing left to try: {why}")
    if decision.algorithm:
        return _weights_proposal(context.run, incumbent, decision, decision.algorithm)
    rationale = f"{why}; nor can the weights be trained: {decision.reason}"
    return replace(stopped, proposal=replace(stopped.proposal, rationale=rationale, evidence=decision.evidence))


def _with_evidence(proposed: ProposalResult, evidence: Mapping[str, Any]) -> ProposalResult:
    return replace(proposed, proposal=replace(proposed.proposal, evidence=evidence))


def _weights_proposal(
    run: RunDir, incumbent: int, decision: TrainingDecision, algorithm: AlgorithmConfig
) -> ProposalResult:
    """Return the proposal to train on the incumbent's unchanged harness."""
    proposal = Proposal(
        Lever.WEIGHTS,
        decision.reason,
        files=read_harness(run.generation(incumbent).harness),
        title=f"{algorithm.name} on rollouts",
        algorithm=algorithm.algorithm,
        overrides=algorithm.model_dump(mode="json"),
        parent=incumbent,
        evidence=decision.evidence,
    )
    return ProposalResult(proposal)


def _proposer_choice(
    context: RunContext,
    n: int,
    history: Sequence[PastGeneration],
    incumbent: int | None,
    weights_turn: LeverDecision,
) -> ProposalResult:
    """Return the proposer's choice. A weights update that it chose is measured first, like any other."""
    proposed = ask_proposer(context, n, history, incumbent, weights_turn)
    proposal = proposed.proposal
    if not proposal.trains_weights:
        return _with_evidence(proposed, {"due": weights_turn.due_reason} if weights_turn.due_reason else {})
    if proposal.parent is None or not can_train_weights(context) or context.config.trainer.kind == "none":
        return failed_proposal(f"lever {proposal.lever.value} was proposed where the harness is the only one")
    decision = check_proposed_training(
        context, n, proposal.parent, proposal.files, proposal.algorithm, weights_turn.due_reason
    )
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
