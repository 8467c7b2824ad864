"""Runs of harnesses for the review of a task: the reference harness, and a program that tries to read files outside."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sia_runner.config.experiment import check_experiment
from sia_runner.config.task import TaskConfig
from sia_runner.experiment import verifier_sandbox
from sia_runner.experiment.context import RunContext, build_task
from sia_runner.experiment.execution import (
    Execution,
    SandboxFailed,
    execute,
    last_log_line,
    score_outcomes,
    verify_submission,
)
from sia_runner.experiment.harness_files import FaultyHarness, write_harness
from sia_runner.proposers.files import read_harness_files
from sia_runner.proposers.recipe_space import load_space
from sia_runner.records import INFRASTRUCTURE_KINDS, Outcome, OutcomeKind, count_kinds
from sia_runner.selection.scoring import ANSWERED
from sia_runner.store.run_directory import HarnessRunDir, RunDir, read_json
from sia_runner.system import cache_dir
from sia_runner.tasks.protocol import FoldPurpose, TaskError
from sia_runner.tasks.review.reviewer import review
from sia_runner.tasks.review.subject import ReferenceSubmission, TaskFinding, TaskReview
from sia_runner.tasks.table import TableTask
from sia_runner.wire.grants import Grant, ProviderDown

_REFERENCE = "reference/"
_NEARLY_PERFECT = 0.98  # a first harness this good leaves nothing to improve
_PROBE_PROGRAM = """\
for name in NAMES:
    try:
        with open(name, "rb") as stream:
            stream.read(1)
    except OSError:
        continue
    print("can read", name)
"""


def review_task(plain: dict[str, Any], spec: TaskConfig, folder: Path) -> TaskReview:
    """Review a task as Hydra composed it; `folder` is scratch space. Raises what refuses a run."""
    task = build_task(spec, plain["split_seed"])
    if not isinstance(task, TableTask):
        raise TaskError(f"task {spec.name} is judged by its own evaluator, which nobody outside can look into")
    task.prepare(lambda text: print(text, flush=True))
    harness_report, sample, command = TaskReview(), None, ()
    offline = plain["provider"].get("kind") == "offline" and not plain["target_agent"].get("provider")
    if spec.needs_model and offline:
        note = "NOT RUN: its harnesses call a model; give provider=… to have the reference harness run"
        harness_report.notes.append(note)
    else:
        context = RunContext(check_experiment(plain), RunDir(folder / "run"))
        begin_review(context, folder)
        try:
            sample = run_reference(context, folder, harness_report)
            if not task._spec.gold_answers:
                run_without_model(context, folder, harness_report)
            spy(context, folder, [task._source / name for name in sorted(task.data_hashes())], harness_report)
        except (ProviderDown, SandboxFailed) as error:
            raise TaskError(f"the reference harness could not be run: {error}") from error
        finally:
            context.close_gateway()
        command = verifier_sandbox.sandbox_command(context) if task.executes else ()
    report = review(task, cache_dir() / "tasks" / task.name, sample, command)
    report.add(harness_report.findings)
    report.notes += harness_report.notes
    return report


def begin_review(context: RunContext, folder: Path) -> None:
    """Make the folders and check models and sandbox. Raises what a run would be refused for."""
    context.run.path.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # a harness may run as another user
    if gateway := context.gateway:
        gateway.check()
    verifier_sandbox.check_machine(context)
    context.sandbox.check(with_gateway=context.config.needs_gateway)


def run_reference(context: RunContext, folder: Path, report: TaskReview) -> ReferenceSubmission | None:
    """Run the reference harness on the gate, then on dev + val; return its submission, None where there is none."""
    task, limits, harness = context.task, context.config.task.limits, folder / "reference"
    try:
        write_harness(read_harness_files(context.reference_harness, task.entry), harness, task.entry)
    except FaultyHarness as fault:
        report.add([TaskFinding("reference-fails", str(fault), _REFERENCE, f"write {_REFERENCE}{task.entry}")])
        return None

    def run(fold_kind: FoldPurpose, where: str, seconds: float) -> tuple[HarnessRunDir, Execution, list[Outcome]]:
        site, fold = HarnessRunDir(folder / fold_kind), task.rounds(fold_kind)[0]
        grant = Grant("target", 0, "review", fold_kind, site.trajectories)
        execution = execute(context, grant, fold, site, harness, f"review {fold_kind}", seconds)
        outcomes = verify_submission(context, site, execution.unanswered)
        report.add(_faults(execution, outcomes, where))
        return site, execution, outcomes

    _, _, outcomes = run("gate", "gate", limits.gate)
    if not _answered(outcomes):
        return None
    site, execution, outcomes = run("select", "dev and val", limits.run)
    score, no_score = score_outcomes(task, outcomes) if _answered(outcomes) else (None, "")
    if no_score:
        report.add([TaskFinding("judge-fails", no_score, "metric.verifier", "let aggregate() return a finite number")])
    if score:
        report.notes.append(
            f"the reference harness scores {score.value:.3f} [{score.ci95[0]:.3f}, {score.ci95[1]:.3f}] on dev and val "
            f"in {execution.ended.seconds:.1f} s (limits.run: {limits.run:g} s)"
        )
        if task.higher_is_better and score.value >= _NEARLY_PERFECT:
            what = f"the first harness scores {score.value:.3f}"
            fix = "begin with a naive harness, or ask harder questions"
            report.add([TaskFinding("nothing-to-improve", what, _REFERENCE, fix)])
    return ReferenceSubmission(site.submission, read_json(site.keys))


def run_without_model(context: RunContext, folder: Path, report: TaskReview) -> None:
    """Note what the task's programs without a model score, which no gold answers tell."""
    task = context.task
    space = load_space(task.folder / "recipes")
    if space is None:
        return
    for variant in space.defaults():
        site = HarnessRunDir(folder / f"recipe_{variant.recipe}")
        harness = folder / f"harness_{variant.recipe}"
        write_harness({task.entry: space.program(variant)}, harness, task.entry)
        grant = Grant("target", 0, "review", "select", site.trajectories, calls=0)
        seconds = context.config.task.limits.run
        execution = execute(context, grant, task.rounds("select")[0], site, harness, "review", seconds)
        score, fault = score_outcomes(task, verify_submission(context, site, execution.unanswered))
        result = f"{score.value:.3f}" if score else f"nothing ({fault or execution.failure})"
        report.notes.append(f"without a model: recipe {variant.recipe} scores {result} on dev and val")


def _answered(outcomes: Sequence[Outcome]) -> bool:
    return any(outcome.kind in ANSWERED for outcome in outcomes)


def _faults(execution: Execution, outcomes: Sequence[Outcome], where: str) -> Iterator[TaskFinding]:
    kinds = count_kinds(outcomes)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    fix = "run it by hand: python target_agent.py --dataset_dir D --working_dir W"
    if execution.failure:
        yield TaskFinding("reference-fails", f"{where}: {execution.failure}", _REFERENCE, fix)
    if not_judged := [outcome.prediction for outcome in outcomes if outcome.kind in INFRASTRUCTURE_KINDS]:
        text = f"it cannot judge the reference harness {not_judged[0]}"
        yield TaskFinding("judge-fails", text, "metric.verifier", fix)
    elif not _answered(outcomes):
        yield TaskFinding("reference-answers-nothing", f"{where}: {counts}", _REFERENCE, fix)
    elif kinds.get(OutcomeKind.INVALID_FORMAT, 0) > len(outcomes) / 10:
        fix = "write answers as the verifier reads them"
        yield TaskFinding("reference-format", f"{where}: {counts}", _REFERENCE, fix)


def spy(context: RunContext, folder: Path, secret: Sequence[Path], report: TaskReview) -> None:
    """Run a program that opens files it must not see; note what the sandbox lets it read, no fault of the task."""
    harness, site, entry = folder / "spy", HarnessRunDir(folder / "spied"), context.task.entry
    write_harness({entry: f"NAMES = {[str(path) for path in secret]!r}\n{_PROBE_PROGRAM}"}, harness, entry)
    grant = Grant("target", 0, "review", "gate", site.trajectories)
    execute(context, grant, context.task.rounds("gate")[0], site, harness, "review", 30.0)
    if (log_line := last_log_line(site.log)).startswith("can read "):
        report.notes.append(f"with sandbox={context.sandbox.name} on this machine a harness {log_line}")
