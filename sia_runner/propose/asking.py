"""Asks the proposer once, or several times in parallel and takes the best on dev questions."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sia_runner.agents.protocol import Brief, Weights
from sia_runner.config import Experiment
from sia_runner.evidence import write_evidence
from sia_runner.ground.parallel import parallel
from sia_runner.propose.search import parent_of
from sia_runner.propose.workbench import Bench
from sia_runner.records import Lever, Past, Proposal, Trial
from sia_runner.rooms import rooms
from sia_runner.rundir import RunDir, remove
from sia_runner.schema.training import allowed
from sia_runner.weights.deciding import Turn


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposal with its parent.

    `siblings` lists every parallel proposal with its dev value, in order; empty for a single one. `fault` is one line
    when the proposer failed.
    """

    proposal: Proposal
    parent: int | None = None
    siblings: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)  # measured for the choice of lever and algorithm


def failed(reason: str) -> Proposed:
    """Return the result of a proposer that failed."""
    return Proposed(Proposal(Lever.HARNESS, reason, title="no proposal"), fault=reason)


def able(config: Experiment) -> bool:
    """Return whether the proposer can use the weights lever.

    Parallel proposals cannot: untrained weights cannot be compared on dev.
    """
    return config.search.width == 1 and getattr(rooms(config).proposer, "pulls_weights", False)


def ask(
    config: Experiment, run: RunDir, n: int, history: Sequence[Past], incumbent: int | None, weights_turn: Turn
) -> Proposed:
    """Ask for one proposal, or for several of which the best is returned.

    Each sibling works in its own folder, on evidence about the candidate that it extends.
    """
    width = config.search.width if n > 1 else 1  # there is no evidence yet to choose between first harnesses
    better = rooms(config).task.higher_is_better

    def parent(sibling: int) -> int | None:
        return parent_of(
            config.search, history, incumbent, seed=config.seed, n=n, sibling=sibling, higher_is_better=better
        )

    parents = [parent(sibling) for sibling in range(width)]

    def ask_sibling(sibling: int) -> Proposal:
        return _one(config, run, n, history, incumbent, parents[sibling % width], sibling, width, weights_turn)

    if width == 1:
        return Proposed(ask_sibling(_place(config, n)), parents[0])
    return _best(config, run, n, parallel(ask_sibling, range(width), width), parents)


def _place(config: Experiment, n: int) -> int:
    """Return this proposal's index among those in progress: they share most of the history and should differ."""
    return 0 if n == 1 else (n - 2) % config.search.in_flight


def _one(
    config: Experiment,
    run: RunDir,
    n: int,
    history: Sequence[Past],
    incumbent: int | None,
    parent: int | None,
    sibling: int,
    width: int,
    weights_turn: Turn,
) -> Proposal:
    generation, components = run.generation(n), rooms(config)
    folder = generation.path if width == 1 else generation.desk(sibling)
    folder.mkdir(parents=True, exist_ok=True)
    evidence_folder: Path | None = None
    if n > 1:
        evidence_folder = folder / "evidence"
        write_evidence(config, run, n, history, incumbent, parent, evidence_folder, left_alone=weights_turn.left_alone)
    brief = Brief(
        n=n,
        max_gen=config.max_gen,
        evidence=evidence_folder,
        history=tuple(history),
        incumbent=incumbent,
        higher_is_better=components.task.higher_is_better,
        parent=parent,
        weights=_lever(config, weights_turn) if parent else None,
        sibling=sibling,
    )
    return components.proposer.propose(brief, Bench(config, run, n, folder, parent))


def _lever(config: Experiment, weights_turn: Turn) -> Weights | None:
    """Return the weights lever for the proposer; None where it may not use it."""
    if config.trainer.kind == "none" or not able(config):
        return None
    from sia_runner.training.rules import suits

    return Weights(
        {name: suits(algorithm.algorithm) for name, algorithm in allowed(config.trainer).items()}, weights_turn.due
    )


def _best(
    config: Experiment, run: RunDir, n: int, proposals: Sequence[Proposal], parents: Sequence[int | None]
) -> Proposed:
    """Return the best proposal by dev value; a tie goes to the first. STOP wins only where every sibling stops."""
    candidates = [index for index, proposal in enumerate(proposals) if proposal.lever is not Lever.STOP]
    if not candidates:
        return Proposed(proposals[0], parents[0])
    trials = {k: _tried(config, run, n, proposals[k], parents[k]) for k in candidates}
    sign = 1 if rooms(config).task.higher_is_better else -1
    best = max(candidates, key=lambda k: (not trials[k].failure, sign * trials[k].value, -k))
    siblings = [_sibling(proposals[k], parents[k], trials.get(k), k == best) for k in range(len(proposals))]
    generation = run.generation(n)
    remove(generation.evidence)
    shutil.copytree(generation.desk(best) / "evidence", generation.evidence, symlinks=True)
    return Proposed(proposals[best], parents[best], siblings)


def _tried(config: Experiment, run: RunDir, n: int, proposal: Proposal, parent: int | None) -> Trial:
    bench = Bench(config, run, n, run.generation(n).path, parent)
    return bench.try_out([proposal.files], share=1.0)[0]


def _sibling(proposal: Proposal, parent: int | None, trial: Trial | None, is_best: bool) -> dict[str, Any]:
    return {
        "title": proposal.title,
        "rationale": proposal.rationale,
        "parent": parent,
        "dev": trial.value if trial and not trial.failure else None,
        "n": trial.n if trial else 0,
        "failure": trial.failure if trial else "",
        "chosen": is_best,
    }
