"""Asking the proposer: one, or several in parallel of which the best on dev questions is taken."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sia_runner import evidence
from sia_runner.agents.protocol import Brief, Weights
from sia_runner.config import Experiment
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
    """`siblings`: every parallel proposal with its dev value, in order; empty where there was one. `fault`: one line
    when the proposer could not do its work."""

    proposal: Proposal
    parent: int | None = None
    siblings: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)  # measured for the choice of lever and algorithm


def failed(reason: str) -> Proposed:
    return Proposed(Proposal(Lever.HARNESS, reason, title="no proposal"), fault=reason)


def able(config: Experiment) -> bool:
    """Can the proposer pull the weights lever? Not among parallel proposals: what is not trained yet cannot be compared
    on dev."""
    return config.search.width == 1 and getattr(rooms(config).proposer, "pulls_weights", False)


def ask(config: Experiment, run: RunDir, n: int, history: Sequence[Past], incumbent: int | None, now: Turn) -> Proposed:
    """Each sibling works at a desk of its own, on the evidence about the candidate that it shall extend."""
    width = config.search.width if n > 1 else 1  # nothing tells the first harnesses apart
    better = rooms(config).task.higher_is_better

    def parent(sibling: int) -> int | None:
        return parent_of(
            config.search, history, incumbent, seed=config.seed, n=n, sibling=sibling, higher_is_better=better
        )

    parents = [parent(sibling) for sibling in range(width)]

    def one(sibling: int) -> Proposal:
        return _one(config, run, n, history, incumbent, parents[sibling % width], sibling, width, now)

    if width == 1:
        return Proposed(one(_place(config, n)), parents[0])
    return _best(config, run, n, parallel(one, range(width), width), parents)


def _place(config: Experiment, n: int) -> int:
    """Which of the proposals under way this is: those side by side have much the same history and shall differ."""
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
    now: Turn,
) -> Proposal:
    here, room = run.generation(n), rooms(config)
    desk = here.path if width == 1 else here.desk(sibling)
    desk.mkdir(parents=True, exist_ok=True)
    shown: Path | None = None
    if n > 1:
        shown = desk / "evidence"
        evidence.write(config, run, n, history, incumbent, parent, shown, left_alone=now.left_alone)
    brief = Brief(
        n=n,
        max_gen=config.max_gen,
        evidence=shown,
        history=tuple(history),
        incumbent=incumbent,
        higher_is_better=room.task.higher_is_better,
        parent=parent,
        weights=_lever(config, now) if parent else None,
        sibling=sibling,
    )
    return room.proposer.propose(brief, Bench(config, run, n, desk, parent))


def _lever(config: Experiment, now: Turn) -> Weights | None:
    """What a proposer is told of the weights lever; None where it is not its to pull."""
    if config.trainer.kind == "none" or not able(config):
        return None
    from sia_runner.training.rules import suits

    return Weights({name: suits(algorithm.algorithm) for name, algorithm in allowed(config.trainer).items()}, now.due)


def _best(
    config: Experiment, run: RunDir, n: int, proposals: Sequence[Proposal], parents: Sequence[int | None]
) -> Proposed:
    """By dev value; a tie goes to the first. `stop` only where every sibling wants to."""
    made = [place for place, proposal in enumerate(proposals) if proposal.lever is not Lever.STOP]
    if not made:
        return Proposed(proposals[0], parents[0])
    trials = {k: _tried(config, run, n, proposals[k], parents[k]) for k in made}
    sign = 1 if rooms(config).task.higher_is_better else -1
    chosen = max(made, key=lambda k: (not trials[k].failure, sign * trials[k].value, -k))
    siblings = [_sibling(proposals[k], parents[k], trials.get(k), k == chosen) for k in range(len(proposals))]
    here = run.generation(n)
    remove(here.evidence)
    shutil.copytree(here.desk(chosen) / "evidence", here.evidence, symlinks=True)
    return Proposed(proposals[chosen], parents[chosen], siblings)


def _tried(config: Experiment, run: RunDir, n: int, proposal: Proposal, parent: int | None) -> Trial:
    bench = Bench(config, run, n, run.generation(n).path, parent)
    return bench.try_out([proposal.files], share=1.0)[0]


def _sibling(proposal: Proposal, parent: int | None, trial: Trial | None, chosen: bool) -> dict[str, Any]:
    return {
        "title": proposal.title,
        "rationale": proposal.rationale,
        "parent": parent,
        "dev": trial.value if trial and not trial.failure else None,
        "n": trial.n if trial else 0,
        "failure": trial.failure if trial else "",
        "chosen": chosen,
    }
