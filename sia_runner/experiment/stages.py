"""The stages of a generation, as plain functions that run here or in a job, and of which the journal stores the result.

A stage may be cut off at any point and repeated: it clears whatever it writes.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sia_runner.config.experiment import Experiment
from sia_runner.config.migration import migrate_algorithm
from sia_runner.config.training import AlgorithmConfig
from sia_runner.experiment.context import RunContext, accept_rule
from sia_runner.experiment.control import samples_of
from sia_runner.experiment.execution import (
    SandboxFailed,
    environment_fault,
    execute,
    infrastructure_failure,
    outcomes_of_split,
    score_outcomes,
    verify_submission,
)
from sia_runner.experiment.harness_files import FaultyHarness, syntax_fault, write_harness
from sia_runner.experiment.proposing import ProposalStep, failed_proposal
from sia_runner.experiment.weights.parallel import update_weights_in_parallel
from sia_runner.experiment.weights.update import inherit_adapter, update_weights
from sia_runner.records import Outcome, OutcomeKind, PastGeneration, Status, Usage, count_kinds
from sia_runner.selection.parents import plateau_length
from sia_runner.selection.scoring import ANSWERED, accept_or_reject, unanswered_note
from sia_runner.stage_results import (
    BuildResult,
    GateResult,
    HarnessRun,
    ProposeResult,
    RunResult,
    TestResult,
    Verdict,
    VerifyResult,
)
from sia_runner.store.run_directory import (
    HarnessRunDir,
    read_json,
    read_outcomes,
    remove_tree,
    sha256_of,
    tree_sha256,
    write_json,
    write_outcomes,
    write_text,
)
from sia_runner.tasks.protocol import Fold
from sia_runner.wire.grants import BudgetSpent, Grant, ModelsError, ProviderDown


def propose(context: RunContext, n: int, history: Sequence[PastGeneration], incumbent: int | None) -> ProposeResult:
    """Let the proposer write gen_<n>/proposal.json. Raises BudgetSpent for the budget of the run, and ProviderDown."""
    generation, unscored = context.run.generation(n), False
    generation.path.mkdir(exist_ok=True)
    step = ProposalStep(context, n, history, incumbent)
    try:
        proposed = step.propose()
    except (BudgetSpent, ModelsError) as error:
        if isinstance(error, BudgetSpent) and error.scope == "run":
            raise
        if isinstance(error, ModelsError) and _is_permanent(context, history, str(error)):
            raise ProviderDown(str(error)) from None
        proposed, unscored = failed_proposal(str(error)), isinstance(error, BudgetSpent)
    evidence = {
        "incumbent": incumbent,
        "parent": proposed.proposal.parent,
        **proposed.proposal.evidence,
        "plateau": plateau_length(history),
        "val": [past.val.to_json() if past.val else None for past in history],
    }
    proposal = replace(proposed.proposal, evidence=evidence)
    write_json(generation.proposal, proposal.to_json())
    decision = {
        "lever": proposal.lever.value,
        "algorithm": proposal.algorithm,
        "trainer": context.config.trainer.name,
        "model": step.model,
        "rationale": proposal.rationale,
        "siblings": proposed.siblings,
        "evidence": evidence,
    }
    write_json(generation.decision, decision)  # for readers
    return ProposeResult(
        lever=proposal.lever,
        title=proposal.title,
        rationale=proposal.rationale,
        algorithm=proposal.algorithm,
        notes=dict(proposal.notes),
        usage=proposal.usage,
        parent=proposal.parent,
        partner=proposal.partner,
        model=step.model,
        siblings=tuple(proposed.siblings),
        fault=proposed.fault,
        unscored=unscored,
        sha256=sha256_of(generation.proposal),
    )


def _is_permanent(context: RunContext, history: Sequence[PastGeneration], refusal: str) -> bool:
    if context.gateway and not context.gateway.ledger.totals().of(purpose="propose").output_tokens:
        return True  # no call of the proposer was ever answered
    return bool(history) and re.sub(r"\d+", "", history[-1].reason) == re.sub(r"\d+", "", refusal)


def build(context: RunContext, n: int) -> BuildResult:
    """Write the proposed harness; train the adapter where the lever includes weights, else inherit the parent's."""
    generation, entry = context.run.generation(n), context.task.entry
    proposal = generation.read_proposal()
    write_text(generation.path / "improvement.md", proposal.improvement or proposal.rationale + "\n")  # for readers
    if not proposal.files:
        return BuildResult(f"nothing was proposed: {proposal.rationale}")
    try:
        write_harness(proposal.files, generation.harness, entry)
    except FaultyHarness as fault:
        return BuildResult(str(fault))
    link = generation.path / "target_agent.py"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("harness") / entry)
    if proposal.trains_weights and proposal.parent is not None:
        algorithm = AlgorithmConfig.model_validate(migrate_algorithm(proposal.overrides))
        train = update_weights_in_parallel if algorithm.ranks > 1 else update_weights
        built = train(context, n, proposal.parent, algorithm)
    else:
        built = BuildResult("", adapter_sha256=inherit_adapter(context.run, n, proposal.parent))
    return replace(built, sha256=tree_sha256(generation.harness))


def gate(context: RunContext, n: int) -> GateResult:
    """Reject cheaply: every file must parse, and a short run on a few questions must answer at least one of them."""
    config, generation, task = context.config, context.run.generation(n), context.task
    fault = syntax_fault(generation.harness, task.entry) or environment_fault(config, generation.harness)
    if fault:
        return GateResult(fault)
    usage, site = Usage(), generation.gate
    for round_ in task.rounds("gate"):
        grant = Grant("target", n, f"gen_{n}", "gate", site.trajectories, adapter=generation.resolved_adapter)
        salt, seconds = view_salt(config, f"gate {n}"), config.task.limits.gate * samples_of(context, n)
        execution = execute(context, grant, round_, site, generation.harness, salt, seconds)
        outcomes = verify_submission(context, site, execution.unanswered)
        remove_tree(site.work)
        usage += execution.usage or Usage()
        if not any(outcome.kind in ANSWERED for outcome in outcomes):
            unscored = bool(infrastructure_failure(outcomes))
            return GateResult(_why_nothing(execution.failure, outcomes), unscored, usage)
    return GateResult("", usage=usage)


def run_harness(context: RunContext, n: int) -> RunResult:
    """Run the target agent on dev + val, mixed and unmarked; once, or once per fold."""
    folds = context.task.rounds("select")
    sites = context.run.generation(n).harness_runs(len(folds))
    runs = tuple(_run_in_site(context, n, site, fold) for site, fold in zip(sites, folds, strict=True))
    return RunResult(runs, sum((run.usage for run in runs if run.usage), Usage()))


def verify(context: RunContext, n: int, runs: Sequence[HarnessRun]) -> VerifyResult:
    """Score the stored submissions. No proposer sees scores.json, which holds one outcome per question."""
    generation, task = context.run.generation(n), context.task
    outcomes = all_verified(context, generation.harness_runs(len(runs)), runs)
    write_outcomes(generation.scores, outcomes)
    val = outcomes_of_split(context, outcomes, "val")
    result = VerifyResult(count_kinds(val), None, "", False, sha256_of(generation.scores))
    if failure := infrastructure_failure(val):
        return replace(result, unscored=True, failure=failure)
    if not any(outcome.kind in ANSWERED for outcome in val):
        return replace(result, failure=_why_nothing(next((run.failure for run in runs if run.failure), ""), val))
    score, failure = score_outcomes(task, val)
    return replace(result, val=score, failure=failure, unscored=score is None)


def decide(context: RunContext, n: int, incumbent: int | None) -> Verdict:
    """Accept or reject the candidate, paired by question on val."""
    config, task = context.config, context.task

    def val_outcomes(k: int) -> list[Outcome]:
        return outcomes_of_split(context, read_outcomes(context.run.generation(k).scores), "val")

    old = None if incumbent is None else val_outcomes(incumbent)
    rule, level, new = accept_rule(config), config.search.accept.level, val_outcomes(n)
    verdict = accept_or_reject(new, old, rule, level, task.higher_is_better, config.seed, task.aggregate)
    if config.control and config.control.arm == "votes" and old is not None and not verdict.accepted:
        # the vote is what the arm stands for: there is nothing to select
        verdict = replace(verdict, status=Status.ACCEPTED, reason=f"the control arm's vote; {verdict.reason}")
    note = unanswered_note(new)
    return replace(verdict, reason=f"{verdict.reason}; {note}") if note else verdict


def final_test(context: RunContext, n: int) -> TestResult:
    """Run once on the test split: refit on every other label, answer, score.

    Raises SandboxFailed if the machine ran out of memory: nothing was scored, and a resume runs the test.
    """
    site, task = context.run.test(n), context.task
    scores = site.path / "scores.json"
    (fold,) = task.rounds("test")
    execution = _run_in_site(context, n, site, fold, test=True)
    if execution.unanswered is OutcomeKind.KILLED:
        raise SandboxFailed(f"the machine ran out of memory in the final test of generation {n}; nothing was scored")
    outcomes = all_verified(context, [site], [execution])
    write_outcomes(scores, outcomes)
    score = None if infrastructure_failure(outcomes) else score_outcomes(task, outcomes)[0]
    grade = task.official_grade(site.submission, read_json(site.keys), score) if score else None
    return TestResult(n, score, count_kinds(outcomes), execution, sha256_of(scores), dict(grade) if grade else None)


def all_verified(
    context: RunContext, harness_runs: Sequence[HarnessRunDir], runs: Sequence[HarnessRun]
) -> list[Outcome]:
    """Verify the submission in each site folder; return the outcomes of all of them."""
    pairs = zip(harness_runs, runs, strict=True)
    return [outcome for site, run in pairs for outcome in verify_submission(context, site, run.unanswered)]


def _run_in_site(context: RunContext, n: int, site: HarnessRunDir, fold: Fold, *, test: bool = False) -> HarnessRun:
    """Run candidate `n` on dev + val, or on test, for which no generation's budget pays."""
    harness, adapter = context.run.generation(n).harness, context.run.adapter_of(n)
    payer, purpose, salt = (0, "test", "test") if test else (n, "select", f"select {n}")
    grant = Grant("target", payer, f"gen_{n}", purpose, site.trajectories, adapter=adapter)
    seconds = context.config.task.limits.run * samples_of(context, n)
    execution = execute(context, grant, fold, site, harness, view_salt(context.config, salt), seconds)
    ended = execution.ended
    return HarnessRun(
        ending=ended.ending.value,
        exit_code=ended.exit_code,
        failure=execution.failure,
        unanswered=execution.unanswered,
        cpu_seconds=round(ended.cpu_seconds, 3),
        peak_mb=round(ended.peak_mb, 1),
        output_bytes=ended.output_bytes,
        usage=execution.usage,
        submission_sha256=tree_sha256(site.submission),
        keys_sha256=sha256_of(site.keys),
        faults_sha256=sha256_of(site.faults) if site.faults.is_file() else None,
    )


def _why_nothing(failure: str, outcomes: Sequence[Outcome]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in count_kinds(outcomes).items())
    why = failure or f"no question was answered ({kinds})"
    note = infrastructure_failure(outcomes) or unanswered_note(outcomes)
    return f"{why}; {note}" if note else why


def view_salt(config: Experiment, purpose: str) -> str:
    """Return the seed string for the shuffled view of one purpose, such as ``select 3``."""
    return f"{config.seed}:{purpose}"
