"""Makes one generation's proposal: decides between weights and harness, and asks the proposer."""

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


def propose(config: Experiment, run: RunDir, n: int, history: Sequence[Past], incumbent: int | None) -> Proposed:
    """Propose the weights lever where it is due, or where the proposer has nothing left; else ask the proposer.

    A proposer that can use the weights lever is told that it is due, and decides. The guarantee of `lever.latest`
    always holds.
    """
    weights_turn = turn(config, history, n, incumbent)
    untrained: dict[str, Any] = {}
    if incumbent and (weights_turn.guaranteed or (weights_turn.due and not able(config))):
        decision = decide(config, run, n, incumbent, weights_turn.due)
        if decision.algorithm:
            return _weights(run, incumbent, decision, decision.algorithm)
        untrained, weights_turn = decision.evidence, replace(weights_turn, left_alone=decision.reason)
    proposed = _asked(config, run, n, history, incumbent, weights_turn)
    stopped = proposed.proposal.lever is Lever.STOP
    if stopped and config.trainer.kind != "none" and incumbent and not weights_rejected(history):
        return _instead(config, run, n, incumbent, proposed)
    return replace(proposed, evidence={**untrained, **proposed.evidence})


def _instead(config: Experiment, run: RunDir, n: int, incumbent: int, stopped: Proposed) -> Proposed:
    """Train the weights instead of stopping for lack of harnesses, where the rules allow it."""
    why = stopped.proposal.rationale
    decision = decide(config, run, n, incumbent, f"the proposer has nothing left to try: {why}")
    if decision.algorithm:
        return _weights(run, incumbent, decision, decision.algorithm)
    proposal = replace(stopped.proposal, rationale=f"{why}; nor can the weights be trained: {decision.reason}")
    return replace(stopped, proposal=proposal, evidence=decision.evidence)


def _weights(run: RunDir, incumbent: int, decision: Decision, algorithm: Algorithm) -> Proposed:
    """Return the proposal to train on the incumbent's unchanged harness."""
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
    config: Experiment, run: RunDir, n: int, history: Sequence[Past], incumbent: int | None, weights_turn: Turn
) -> Proposed:
    """Return the proposer's choice. A weights update that it chose is measured first, like any other."""
    proposed = ask(config, run, n, history, incumbent, weights_turn)
    proposal = proposed.proposal
    if proposal.lever not in (Lever.WEIGHTS, Lever.BOTH):
        return replace(proposed, evidence={"due": weights_turn.due} if weights_turn.due else {})
    if proposed.parent is None or not able(config) or config.trainer.kind == "none":
        return failed(f"lever {proposal.lever.value} was proposed where the harness is the only one")
    decision = chosen(config, run, n, proposed.parent, proposal.files, proposal.algorithm, weights_turn.due)
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
