"""Each stage of a generation as a plain function of (config, run directory), so that it can run here or in a job.

A stage may be cut at any point and done again: it clears what it writes. What it returns goes into the journal.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sia_runner.candidate.execute import Execution, Purpose, environment_fault, execute
from sia_runner.candidate.harness import FaultyHarness, syntax_fault, write_harness
from sia_runner.candidate.verdicts import of_split, verified
from sia_runner.config import Experiment
from sia_runner.ground.scoring import accept
from sia_runner.models.protocol import BudgetSpent, ModelsError
from sia_runner.propose import proposing
from sia_runner.propose.search import plateau_length
from sia_runner.records import INFRASTRUCTURE, Lever, Outcome, OutcomeKind, Past, Usage, count_kinds
from sia_runner.rooms import rooms
from sia_runner.rundir import RunDir, Site, read_json, remove, sha256_of, tree_sha256, write_json, write_text
from sia_runner.schema.training import Algorithm
from sia_runner.tasks.protocol import Round
from sia_runner.weights.learning import inherit, learn
from sia_runner.weights.together import learn_together

Result = dict[str, Any]
ANSWERED = frozenset({OutcomeKind.CORRECT, OutcomeKind.PARTIAL, OutcomeKind.WRONG})


def propose(config: Experiment, run: RunDir, n: int, history: Sequence[Past], incumbent: int | None) -> Result:
    """Evidence and proposal. The proposal itself is gen_<n>/proposal.json; the journal keeps its hash. `fault` and
    `unscored` are set when the proposer itself could not do its work."""
    here = run.generation(n)
    here.path.mkdir(exist_ok=True)
    try:
        proposed = proposing.propose(config, run, n, history, incumbent)
    except (BudgetSpent, ModelsError) as error:
        if isinstance(error, BudgetSpent) and error.scope == "run":
            raise
        proposed = proposing.failed(str(error))
        unscored = isinstance(error, BudgetSpent)
    else:
        unscored = False
    proposal = proposed.proposal
    write_json(here.proposal, proposal.as_json())
    write_json(here.decision, _decision(config, proposed, history, incumbent))
    return {
        "lever": proposal.lever.value,
        "title": proposal.title,
        "rationale": proposal.rationale,
        "algorithm": proposal.algorithm,
        "notes": dict(proposal.notes),
        "usage": proposal.usage.as_json(),
        "parent": proposed.parent,
        "siblings": proposed.siblings,
        "fault": proposed.fault,
        "unscored": unscored,
        "sha256": sha256_of(here.proposal),
    }


def _decision(
    config: Experiment, proposed: proposing.Proposed, history: Sequence[Past], incumbent: int | None
) -> Result:
    """Which lever was pulled, and what was known when it was."""
    proposal = proposed.proposal
    return {
        "lever": proposal.lever.value,
        "algorithm": proposal.algorithm,
        "trainer": config.trainer.name,
        "rationale": proposal.rationale,
        "siblings": proposed.siblings,
        "evidence": {
            "incumbent": incumbent,
            "parent": proposed.parent,
            **proposed.evidence,
            "plateau": plateau_length(history),
            "val": [past.val.as_json() if past.val else None for past in history],
        },
    }


def build(config: Experiment, run: RunDir, n: int) -> Result:
    """Write the proposed harness, and train the adapter where weights are the lever. `fault` is one line when the
    proposal cannot be built."""
    here, entry = run.generation(n), rooms(config).task.entry
    proposal = read_json(here.proposal)
    write_text(here.path / "improvement.md", proposal["improvement"] or proposal["rationale"] + "\n")
    if not proposal["files"]:
        return {"fault": f"nothing was proposed: {proposal['rationale']}", "sha256": None}
    try:
        write_harness(proposal["files"], here.harness, entry)
    except FaultyHarness as fault:
        return {"fault": str(fault), "sha256": None}
    link = here.path / "target_agent.py"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("harness") / entry)
    return {"fault": "", "sha256": tree_sha256(here.harness)} | _weights(config, run, n, proposal)


def trains(run: RunDir, n: int) -> bool:
    """Is what was proposed a weights update?"""
    return read_json(run.generation(n).proposal)["lever"] in (Lever.WEIGHTS, Lever.BOTH)


def _weights(config: Experiment, run: RunDir, n: int, proposal: Result) -> Result:
    """What the candidate's policy is: newly trained, or its parent's."""
    parent = read_json(run.generation(n).decision)["evidence"]["parent"]
    if proposal["lever"] in (Lever.WEIGHTS, Lever.BOTH):
        algorithm = Algorithm.model_validate(proposal["overrides"])
        train = learn_together if algorithm.processes > 1 else learn
        return train(config, run, n, parent, algorithm)
    return {"adapter_sha256": inherit(run, n, parent)}


def gate(config: Experiment, run: RunDir, n: int) -> Result:
    """Cheap refusal: every file parses, and a short run on a few questions answers at least one of them."""
    here, task = run.generation(n), rooms(config).task
    fault = syntax_fault(here.harness, task.entry) or environment_fault(config, here.harness)
    if fault:
        return {"fault": fault}
    spent = Usage()
    for round_ in task.rounds("gate"):
        seconds, purpose = config.task.limits.gate, Purpose(run, n, f"gen_{n}", "gate", here.adapter_used)
        execution = execute(config, purpose, round_, here.gate, here.harness, salt(config, f"gate {n}"), seconds)
        outcomes = verified(config, here.gate, execution.unanswered)
        remove(here.gate.work)
        spent += execution.usage or Usage()
        if not any(outcome.kind in ANSWERED for outcome in outcomes):
            unscored = any(outcome.kind in INFRASTRUCTURE for outcome in outcomes)
            fault = execution.failure or _nothing_answered(outcomes)
            return {"fault": fault, "unscored": unscored, "usage": spent.as_json()}
    return {"fault": "", "usage": spent.as_json()}


def run_harness(config: Experiment, run: RunDir, n: int) -> Result:
    """Run the target agent on dev + val, mixed and unmarked; once, or once per fold."""
    here, all_rounds = run.generation(n), rooms(config).task.rounds("select")
    sites, purpose = here.sites(len(all_rounds)), Purpose(run, n, f"gen_{n}", "select", here.adapter_used)
    runs = [
        _run_at(config, purpose, site, round_, here.harness, f"select {n}")
        for site, round_ in zip(sites, all_rounds, strict=True)
    ]
    return {"runs": runs, "usage": _sum(runs).as_json()}


def verify(config: Experiment, run: RunDir, n: int, runs: Sequence[Result]) -> Result:
    """Score the kept submissions. scores.json holds one outcome per question and is for no proposer."""
    here, task = run.generation(n), rooms(config).task
    outcomes = all_verified(config, here.sites(len(runs)), runs)
    write_json(here.scores, {"outcomes": [_as_json(outcome) for outcome in outcomes]})
    val = of_split(config, outcomes, "val")
    result = {"outcomes": count_kinds(val), "val": None, "failure": "", "unscored": False}
    result["scores_sha256"] = sha256_of(here.scores)
    unfair = [outcome for outcome in val if outcome.kind in INFRASTRUCTURE]
    if unfair:
        return result | {
            "unscored": True,
            "failure": f"{len(unfair)} of {len(val)} {unfair[0].kind}: {unfair[0].prediction}",
        }
    if not any(outcome.kind in ANSWERED for outcome in val):
        failures = [ran["failure"] for ran in runs if ran["failure"]]
        return result | {"failure": failures[0] if failures else _nothing_answered(val)}
    return result | {"val": task.score(val).as_json()}


def judge(config: Experiment, run: RunDir, n: int, incumbent: int | None) -> Result:
    """Accept or revert, question by question on val."""
    room, rule = rooms(config), config.search.accept
    new = of_split(config, read_scores(run, n), "val")
    old = None if incumbent is None else of_split(config, read_scores(run, incumbent), "val")
    verdict = accept(new, old, rule.rule, rule.level, room.task.higher_is_better, config.seed, room.task.aggregate)
    return {
        "status": "accepted" if verdict.accepted else "rejected",
        "reason": verdict.reason,
        "difference": verdict.difference,
        "standard_error": verdict.standard_error,
        "p_value": verdict.p_value,
    }


def test(config: Experiment, run: RunDir, n: int) -> Result:
    """The one look at the test split: refit on every other label, answer, score."""
    site, task = run.test(n), rooms(config).task
    site.path.mkdir(parents=True, exist_ok=True)
    (round_,) = task.rounds("test")
    purpose = Purpose(run, 0, f"gen_{n}", "test", run.adapter_of(n))
    ran = _run_at(config, purpose, site, round_, run.generation(n).harness, "test")
    outcomes = all_verified(config, [site], [ran])
    write_json(site.path / "scores.json", {"outcomes": [_as_json(outcome) for outcome in outcomes]})
    scored = not any(outcome.kind in INFRASTRUCTURE for outcome in outcomes)
    score = task.score(outcomes) if scored else None
    standing = task.standing(site.submission, read_json(site.keys), score) if score else None
    result = {
        "generation": n,
        "score": score.as_json() if score else None,
        "outcomes": count_kinds(outcomes),
        "run": ran,
        "scores_sha256": sha256_of(site.path / "scores.json"),
    }
    return result | ({"standing": dict(standing)} if standing else {})


def all_verified(config: Experiment, sites: Sequence[Site], runs: Sequence[Result]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for site, ran in zip(sites, runs, strict=True):
        outcomes += verified(config, site, OutcomeKind(ran["unanswered"]))
    return outcomes


def read_scores(run: RunDir, n: int) -> list[Outcome]:
    rows = read_json(run.generation(n).scores)["outcomes"]
    return [Outcome(row["unit"], OutcomeKind(row["kind"]), row["value"], row["prediction"]) for row in rows]


def _run_at(config: Experiment, why: Purpose, site: Site, round_: Round, harness: Path, purpose: str) -> Result:
    execution = execute(config, why, round_, site, harness, salt(config, purpose), config.task.limits.run)
    kept = {"submission_sha256": tree_sha256(site.submission), "keys_sha256": sha256_of(site.keys)}
    if site.faults.is_file():
        kept["faults_sha256"] = sha256_of(site.faults)
    return _ran(execution) | kept


def _ran(execution: Execution) -> Result:
    ended = execution.ended
    return {
        "ending": ended.ending.value,
        "exit_code": ended.exit_code,
        "failure": execution.failure,
        "unanswered": execution.unanswered.value,
        "cpu_seconds": round(ended.cpu_seconds, 3),
        "peak_mb": round(ended.peak_mb, 1),
        "output_bytes": ended.output_bytes,
        "usage": execution.usage.as_json() if execution.usage else None,
    }


def _sum(runs: Sequence[Result]) -> Usage:
    return sum((Usage(**ran["usage"]) for ran in runs if ran["usage"]), Usage())


def _as_json(outcome: Outcome) -> Result:
    return {"unit": outcome.unit, "kind": outcome.kind.value, "value": outcome.value, "prediction": outcome.prediction}


def _nothing_answered(outcomes: Sequence[Outcome]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in count_kinds(outcomes).items())
    return f"no question was answered ({kinds})"


def salt(config: Experiment, purpose: str) -> str:
    return f"{config.seed}:{purpose}"
