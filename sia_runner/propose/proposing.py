"""One generation's proposal: whose turn it is, the weights' or the harness's, and what is proposed then."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sia_runner.candidate.harness import read_harness
from sia_runner.config import Experiment
from sia_runner.ground.history import weights_rejected
from sia_runner.propose.asking import Proposed, able, ask, failed
from sia_runner.records import Lever, Past, Proposal
from sia_runner.rundir import RunDir
from sia_runner.schema.training import Algorithm
from sia_runner.weights.deciding import Decision, Turn, chosen, decide, turn

__all__ = ["Proposed", "failed", "propose"]


def propose(config: Experiment, run: RunDir, n: int, history: Sequence[Past], incumbent: int | None) -> Proposed:
    """The weights lever where it is due, or where the proposer has nothing left; the proposer's own choice otherwise.

    A proposer that can pull it is told that it is due, and decides. What `lever.latest` guarantees, nobody decides.
    """
    now = turn(config, history, n, incumbent)
    left_alone: dict[str, Any] = {}
    if incumbent and (now.guaranteed or (now.due and not able(config))):
        decision = decide(config, run, n, incumbent, now.due)
        if decision.algorithm:
            return _weights(run, incumbent, decision, decision.algorithm)
        left_alone, now = decision.evidence, replace(now, left_alone=decision.reason)
    proposed = _asked(config, run, n, history, incumbent, now)
    stopped = proposed.proposal.lever is Lever.STOP
    if stopped and config.trainer.kind != "none" and incumbent and not weights_rejected(history):
        return _instead(config, run, n, incumbent, proposed)
    return replace(proposed, evidence={**left_alone, **proposed.evidence})


def _instead(config: Experiment, run: RunDir, n: int, incumbent: int, stopped: Proposed) -> Proposed:
    """Before a run stops for want of harnesses, its weights are trained."""
    why = stopped.proposal.rationale
    decision = decide(config, run, n, incumbent, f"the proposer has nothing left to try: {why}")
    if decision.algorithm:
        return _weights(run, incumbent, decision, decision.algorithm)
    proposal = replace(stopped.proposal, rationale=f"{why}; nor can the weights be trained: {decision.reason}")
    return replace(stopped, proposal=proposal, evidence=decision.evidence)


def _weights(run: RunDir, incumbent: int, decision: Decision, algorithm: Algorithm) -> Proposed:
    """The incumbent's harness as it is, and what to train with."""
    proposal = Proposal(
        Lever.WEIGHTS,
        decision.reason,
        files=read_harness(run.generation(incumbent).harness),
        title=f"{algorithm.name} on rollouts",
        algorithm=algorithm.algorithm,
        overrides=algorithm.model_dump(mode="json"),
    )
    return Proposed(proposal, incumbent, evidence=decision.evidence)


def _asked(
    config: Experiment, run: RunDir, n: int, history: Sequence[Past], incumbent: int | None, now: Turn
) -> Proposed:
    """What the proposer says. A weights update of its own choice is measured like any other before it is begun."""
    proposed = ask(config, run, n, history, incumbent, now)
    proposal = proposed.proposal
    if proposal.lever not in (Lever.WEIGHTS, Lever.BOTH):
        return replace(proposed, evidence={"due": now.due} if now.due else {})
    if proposed.parent is None or not able(config) or config.trainer.kind == "none":
        return failed(f"lever {proposal.lever.value} was proposed where the harness is the only one")
    decision = chosen(config, run, n, proposed.parent, proposal.files, proposal.algorithm, now.due)
    if decision.algorithm is None:
        return replace(failed(f"the weights were not trained: {decision.reason}"), evidence=decision.evidence)
    unchanged = dict(proposal.files) == read_harness(run.generation(proposed.parent).harness)
    settled = replace(
        proposal,
        lever=Lever.WEIGHTS if unchanged else Lever.BOTH,
        algorithm=decision.algorithm.algorithm,
        overrides=decision.algorithm.model_dump(mode="json"),
        rationale=f"{proposal.rationale}\n\n{decision.reason}",
    )
    return replace(proposed, proposal=settled, evidence=decision.evidence)
