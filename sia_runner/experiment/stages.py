"""The stages of a generation, each a plain function of (run context, generation), so that it runs here or in a job.

A stage may be cut off at any point and repeated: it clears whatever it writes. The journal stores its return value."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sia_runner.config.experiment import Experiment
from sia_runner.config.training import AlgorithmConfig
from sia_runner.experiment import proposing
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.execution import (
    Execution,
    ExecutionPurpose,
    environment_fault,
    execute,
    outcomes_of_split,
    verify_submission,
)
from sia_runner.experiment.harness_files import FaultyHarness, syntax_fault, write_harness
from sia_runner.experiment.weights.parallel import update_weights_in_parallel
from sia_runner.experiment.weights.update import inherit_adapter, update_weights
from sia_runner.records import INFRASTRUCTURE_KINDS, Lever, Outcome, OutcomeKind, PastGeneration, Usage, count_kinds
from sia_runner.selection.parents import plateau_length
from sia_runner.selection.scoring import accept_or_reject
from sia_runner.store.run_directory import (
    HarnessRunDir,
    RunDir,
    read_json,
    remove_tree,
    sha256_of,
    tree_sha256,
    write_json,
    write_text,
)
from sia_runner.tasks.protocol import Fold
from sia_runner.wire.grants import BudgetSpent, ModelsError

Result = dict[str, Any]
ANSWERED = frozenset({OutcomeKind.CORRECT, OutcomeKind.PARTIAL, OutcomeKind.WRONG})


def propose(context: RunContext, n: int, history: Sequence[PastGeneration], incumbent: int | None) -> Result:
    """Collect the evidence and let the proposer write gen_<n>/proposal.json; the journal keeps only its hash.

    `fault` and `unscored` are set when the proposer itself could not do its work. Raises BudgetSpent when the budget of
    the run is spent.
    """
    generation = context.run.generation(n)
    generation.path.mkdir(exist_ok=True)
    try:
        proposed = proposing.propose(context, n, history, incumbent)
    except (BudgetSpent, ModelsError) as error:
        if isinstance(error, BudgetSpent) and error.scope == "run":
            raise
        proposed = proposing.failed_proposal(str(error))
        unscored = isinstance(error, BudgetSpent)
    else:
        unscored = False
    proposal = proposed.proposal
    write_json(generation.proposal, proposal.to_json())
    write_json(generation.decision, _lever_decision(context.config, proposed, history, incumbent))
    return {
        "lever": proposal.lever.value,
        "title": proposal.title,
        "rationale": proposal.rationale,
        "algorithm": proposal.algorithm,
        "notes": dict(proposal.notes),
        "usage": proposal.usage.to_json(),
        "parent": proposed.parent,
        "siblings": proposed.siblings,
        "fault": proposed.fault,
        "unscored": unscored,
        "sha256": sha256_of(generation.proposal),
    }


def _lever_decision(
    config: Experiment, proposed: proposing.ProposalResult, history: Sequence[PastGeneration], incumbent: int | None
) -> Result:
    """Describe the chosen lever and what the run knew at that moment."""
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
            "val": [past.val.to_json() if past.val else None for past in history],
        },
    }


def build(context: RunContext, n: int) -> Result:
    """Write the proposed harness, and train the adapter where the lever includes weights.

    `fault` is one line when the proposal cannot be built.
    """
    generation, entry = context.run.generation(n), context.task.entry
    proposal = read_json(generation.proposal)
    write_text(generation.path / "improvement.md", proposal["improvement"] or proposal["rationale"] + "\n")
    if not proposal["files"]:
        return {"fault": f"nothing was proposed: {proposal['rationale']}", "sha256": None}
    try:
        write_harness(proposal["files"], generation.harness, entry)
    except FaultyHarness as fault:
        return {"fault": str(fault), "sha256": None}
    link = generation.path / "target_agent.py"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("harness") / entry)
    return {"fault": "", "sha256": tree_sha256(generation.harness)} | _candidate_adapter(context, n, proposal)


def trains_weights(run: RunDir, n: int) -> bool:
    """Return whether the proposal is a weights update."""
    return read_json(run.generation(n).proposal)["lever"] in (Lever.WEIGHTS, Lever.BOTH)


def _candidate_adapter(context: RunContext, n: int, proposal: Result) -> Result:
    """Train the candidate's adapter, or inherit its parent's."""
    parent = read_json(context.run.generation(n).decision)["evidence"]["parent"]
    if proposal["lever"] in (Lever.WEIGHTS, Lever.BOTH):
        algorithm = AlgorithmConfig.model_validate(proposal["overrides"])
        train = update_weights_in_parallel if algorithm.processes > 1 else update_weights
        return train(context, n, parent, algorithm)
    return {"adapter_sha256": inherit_adapter(context.run, n, parent)}


def gate(context: RunContext, n: int) -> Result:
    """Reject cheaply: every file must parse, and a short run on a few questions must answer at least one of them."""
    config, generation, task = context.config, context.run.generation(n), context.task
    fault = syntax_fault(generation.harness, task.entry) or environment_fault(config, generation.harness)
    if fault:
        return {"fault": fault}
    usage = Usage()
    for round_ in task.rounds("gate"):
        seconds, purpose = (
            config.task.limits.gate,
            ExecutionPurpose(n, f"gen_{n}", "gate", generation.resolved_adapter),
        )
        execution = execute(
            context,
            purpose,
            round_,
            generation.gate,
            generation.harness,
            view_salt(context.config, f"gate {n}"),
            seconds,
        )
        outcomes = verify_submission(context, generation.gate, execution.unanswered)
        remove_tree(generation.gate.work)
        usage += execution.usage or Usage()
        if not any(outcome.kind in ANSWERED for outcome in outcomes):
            unscored = any(outcome.kind in INFRASTRUCTURE_KINDS for outcome in outcomes)
            fault = execution.failure or _nothing_answered(outcomes)
            return {"fault": fault, "unscored": unscored, "usage": usage.to_json()}
    return {"fault": "", "usage": usage.to_json()}


def run_harness(context: RunContext, n: int) -> Result:
    """Run the target agent on dev + val, mixed and unmarked; once, or once per fold."""
    generation, all_rounds = context.run.generation(n), context.task.rounds("select")
    harness_runs, purpose = (
        generation.harness_runs(len(all_rounds)),
        ExecutionPurpose(n, f"gen_{n}", "select", generation.resolved_adapter),
    )
    runs = [
        _run_in_site(context, purpose, site, round_, generation.harness, f"select {n}")
        for site, round_ in zip(harness_runs, all_rounds, strict=True)
    ]
    return {"runs": runs, "usage": _total_usage(runs).to_json()}


def verify(context: RunContext, n: int, runs: Sequence[Result]) -> Result:
    """Score the stored submissions. No proposer sees scores.json, which holds one outcome per question."""
    generation, task = context.run.generation(n), context.task
    outcomes = all_verified(context, generation.harness_runs(len(runs)), runs)
    write_json(generation.scores, {"outcomes": [_outcome_json(outcome) for outcome in outcomes]})
    val = outcomes_of_split(context, outcomes, "val")
    result = {"outcomes": count_kinds(val), "val": None, "failure": "", "unscored": False}
    result["scores_sha256"] = sha256_of(generation.scores)
    infrastructure = [outcome for outcome in val if outcome.kind in INFRASTRUCTURE_KINDS]
    if infrastructure:
        return result | {
            "unscored": True,
            "failure": f"{len(infrastructure)} of {len(val)} {infrastructure[0].kind}: {infrastructure[0].prediction}",
        }
    if not any(outcome.kind in ANSWERED for outcome in val):
        failures = [execution["failure"] for execution in runs if execution["failure"]]
        return result | {"failure": failures[0] if failures else _nothing_answered(val)}
    return result | {"val": task.score(val).to_json()}


def decide(context: RunContext, n: int, incumbent: int | None) -> Result:
    """Accept or reject the candidate, paired by question on val."""
    config, run, task = context.config, context.run, context.task
    rule = config.search.accept
    new = outcomes_of_split(context, read_scores(run, n), "val")
    old = None if incumbent is None else outcomes_of_split(context, read_scores(run, incumbent), "val")
    verdict = accept_or_reject(new, old, rule.rule, rule.level, task.higher_is_better, config.seed, task.aggregate)
    return {
        "status": "accepted" if verdict.accepted else "rejected",
        "reason": verdict.reason,
        "difference": verdict.difference,
        "standard_error": verdict.standard_error,
        "p_value": verdict.p_value,
    }


def final_test(context: RunContext, n: int) -> Result:
    """Run once on the test split: refit on every other label, answer, score."""
    site, task = context.run.test(n), context.task
    site.path.mkdir(parents=True, exist_ok=True)
    (round_,) = task.rounds("test")
    purpose = ExecutionPurpose(0, f"gen_{n}", "test", context.run.adapter_of(n))
    execution = _run_in_site(context, purpose, site, round_, context.run.generation(n).harness, "test")
    outcomes = all_verified(context, [site], [execution])
    write_json(site.path / "scores.json", {"outcomes": [_outcome_json(outcome) for outcome in outcomes]})
    scored = not any(outcome.kind in INFRASTRUCTURE_KINDS for outcome in outcomes)
    score = task.score(outcomes) if scored else None
    standing = task.standing(site.submission, read_json(site.keys), score) if score else None
    result = {
        "generation": n,
        "score": score.to_json() if score else None,
        "outcomes": count_kinds(outcomes),
        "run": execution,
        "scores_sha256": sha256_of(site.path / "scores.json"),
    }
    return result | ({"standing": dict(standing)} if standing else {})


def all_verified(context: RunContext, harness_runs: Sequence[HarnessRunDir], runs: Sequence[Result]) -> list[Outcome]:
    """Verify the submission in each site folder; return the outcomes of all of them."""
    outcomes: list[Outcome] = []
    for site, execution in zip(harness_runs, runs, strict=True):
        outcomes += verify_submission(context, site, OutcomeKind(execution["unanswered"]))
    return outcomes


def read_scores(run: RunDir, n: int) -> list[Outcome]:
    """Read the outcomes of generation `n` from its scores.json."""
    rows = read_json(run.generation(n).scores)["outcomes"]
    return [Outcome(row["unit"], OutcomeKind(row["kind"]), row["value"], row["prediction"]) for row in rows]


def _run_in_site(
    context: RunContext, purpose: ExecutionPurpose, site: HarnessRunDir, round_: Fold, harness: Path, salt_label: str
) -> Result:
    execution = execute(
        context, purpose, round_, site, harness, view_salt(context.config, salt_label), context.config.task.limits.run
    )
    hashes = {"submission_sha256": tree_sha256(site.submission), "keys_sha256": sha256_of(site.keys)}
    if site.faults.is_file():
        hashes["faults_sha256"] = sha256_of(site.faults)
    return _execution_result(execution) | hashes


def _execution_result(execution: Execution) -> Result:
    sandbox_result = execution.ended
    return {
        "ending": sandbox_result.ending.value,
        "exit_code": sandbox_result.exit_code,
        "failure": execution.failure,
        "unanswered": execution.unanswered.value,
        "cpu_seconds": round(sandbox_result.cpu_seconds, 3),
        "peak_mb": round(sandbox_result.peak_mb, 1),
        "output_bytes": sandbox_result.output_bytes,
        "usage": execution.usage.to_json() if execution.usage else None,
    }


def _total_usage(runs: Sequence[Result]) -> Usage:
    return sum((Usage(**execution["usage"]) for execution in runs if execution["usage"]), Usage())


def _outcome_json(outcome: Outcome) -> Result:
    return {"unit": outcome.unit, "kind": outcome.kind.value, "value": outcome.value, "prediction": outcome.prediction}


def _nothing_answered(outcomes: Sequence[Outcome]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in count_kinds(outcomes).items())
    return f"no question was answered ({kinds})"


def view_salt(config: Experiment, purpose: str) -> str:
    """Return the seed string for the shuffled view of one purpose, such as ``select 3``."""
    return f"{config.seed}:{purpose}"
