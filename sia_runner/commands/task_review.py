"""Runs of harnesses for the review of a task: the reference harness, and a program that tries to read files outside."""

from collections.abc import Iterator
from dataclasses import dataclass
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
    verify_submission,
)
from sia_runner.experiment.harness_files import FaultyHarness, write_harness
from sia_runner.experiment.stages import ANSWERED
from sia_runner.proposers.files import read_harness_files
from sia_runner.records import INFRASTRUCTURE_KINDS, Outcome, OutcomeKind, count_kinds
from sia_runner.store.run_directory import HarnessRunDir, RunDir, read_json
from sia_runner.system import cache_dir
from sia_runner.tasks.protocol import FoldPurpose as Why
from sia_runner.tasks.protocol import TaskError
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


@dataclass(frozen=True, slots=True)
class ReviewRun:
    """A run of a harness and its outcomes."""

    execution: Execution
    outcomes: list[Outcome]
    site: HarnessRunDir


class ReviewRuns:
    """The harness runs of one review. `folder` is scratch space; the context's run directory is in it."""

    def __init__(self, context: RunContext, folder: Path) -> None:
        self._context, self._folder, self._task = context, folder, context.task

    def first_harness(self, report: TaskReview) -> ReferenceSubmission | None:
        """Run the reference harness on the gate, then on dev + val; return its submission, None where there is none."""
        harness = self._folder / "reference"
        try:
            write_harness(
                read_harness_files(self._context.reference_harness, self._task.entry), harness, self._task.entry
            )
        except FaultyHarness as fault:
            report.add(
                [TaskFinding("reference-fails", str(fault), _REFERENCE, f"write {_REFERENCE}{self._task.entry}")]
            )
            return None
        gate_run = self._once(harness, "gate", self._context.config.task.limits.gate)
        report.add(self._faults(gate_run, "gate"))
        if not _answered(gate_run):
            return None
        seconds = self._context.config.task.limits.run
        select_run = self._once(harness, "select", seconds)
        report.add(self._faults(select_run, "dev and val"))
        if _answered(select_run):
            report.add(self._score(select_run, seconds, report))
        return ReferenceSubmission(select_run.site.submission, read_json(select_run.site.keys))

    def spy(self, source: Path, names: list[str], report: TaskReview) -> None:
        """Run a program that opens files it must not see, by the names that they have outside.

        Files that it can read are noted: they say something about the sandbox of this machine, not about the task.
        """
        secret = [str(source / name) for name in names]
        harness, site = self._folder / "spy", HarnessRunDir(self._folder / "spied")
        write_harness({self._task.entry: f"NAMES = {secret!r}\n{_PROBE_PROGRAM}"}, harness, self._task.entry)
        grant = Grant("target", 0, "review", "gate", site.trajectories)
        execute(self._context, grant, self._task.rounds("gate")[0], site, harness, "review", 30.0)
        if (log_line := last_log_line(site.log)).startswith("can read "):
            report.notes.append(f"with sandbox={self._context.sandbox.name} on this machine a harness {log_line}")

    def close(self) -> None:
        """Close the models."""
        self._context.close_gateway()

    def begin(self) -> None:
        """Make the folder and check models and sandbox. Raises what a run would be refused for."""
        self._context.run.path.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o755)  # a harness may run as another user
        gateway = self._context.gateway
        if gateway:
            gateway.check()
        self._context.sandbox.check(door=self._context.config.needs_gateway)

    def _once(self, harness: Path, fold_kind: Why, seconds: float) -> ReviewRun:
        site = HarnessRunDir(self._folder / fold_kind)
        grant = Grant("target", 0, "review", fold_kind, site.trajectories)
        fold, salt = self._task.rounds(fold_kind)[0], f"review {fold_kind}"
        execution = execute(self._context, grant, fold, site, harness, salt, seconds)
        return ReviewRun(execution, verify_submission(self._context, site, execution.unanswered), site)

    def _faults(self, ran: ReviewRun, where: str) -> Iterator[TaskFinding]:
        kinds = count_kinds(ran.outcomes)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        fix = "run it by hand: python target_agent.py --dataset_dir D --working_dir W"
        if ran.execution.failure:
            yield TaskFinding("reference-fails", f"{where}: {ran.execution.failure}", _REFERENCE, fix)
        if any(outcome.kind in INFRASTRUCTURE_KINDS for outcome in ran.outcomes):
            text = next(outcome.prediction for outcome in ran.outcomes if outcome.kind in INFRASTRUCTURE_KINDS)
            yield TaskFinding("judge-fails", f"it cannot judge the reference harness {text}", "metric.verifier", fix)
        elif not _answered(ran):
            yield TaskFinding("reference-answers-nothing", f"{where}: {counts}", _REFERENCE, fix)
        elif kinds.get(OutcomeKind.INVALID_FORMAT, 0) > len(ran.outcomes) / 10:
            yield TaskFinding(
                "reference-format", f"{where}: {counts}", _REFERENCE, "write answers as the verifier reads them"
            )

    def _score(self, ran: ReviewRun, seconds: float, report: TaskReview) -> Iterator[TaskFinding]:
        score, seconds_taken = self._task.score(ran.outcomes), ran.execution.ended.seconds
        report.notes.append(
            f"the reference harness scores {score.value:.3f} [{score.ci95[0]:.3f}, {score.ci95[1]:.3f}] on dev and val "
            f"in {seconds_taken:.1f} s (limits.run: {seconds:g} s)"
        )
        if self._task.higher_is_better and score.value >= _NEARLY_PERFECT:
            what = f"the first harness scores {score.value:.3f}"
            yield TaskFinding(
                "nothing-to-improve", what, _REFERENCE, "begin with a naive harness, or ask harder questions"
            )


def _answered(harness_run: ReviewRun) -> bool:
    return any(outcome.kind in ANSWERED for outcome in harness_run.outcomes)


def review_task(plain: dict[str, Any], spec: TaskConfig, folder: Path) -> TaskReview:
    """Review a task as Hydra composed it; `folder` is scratch space. Raises what refuses a run."""
    task = build_task(spec, plain["split_seed"])
    if not isinstance(task, TableTask):
        raise TaskError(f"task {spec.name} is judged by its own evaluator, which nobody outside can look into")
    task.prepare(lambda text: print(text, flush=True))
    harness_report, sample, command = TaskReview(), None, ()
    if spec.needs_model and _offline(plain):
        harness_report.notes.append(
            "NOT RUN: its harnesses call a model; give provider=… to have the reference harness run"
        )
    else:
        context = RunContext(check_experiment(plain), RunDir(folder / "run"))
        sample = _run_harnesses(ReviewRuns(context, folder), task, harness_report)
        command = verifier_sandbox.sandbox_command(context) if task.executes else ()
    report = review(task, cache_dir() / "tasks" / task.name, sample, command)
    report.add(harness_report.findings)
    report.notes += harness_report.notes
    return report


def _run_harnesses(runs: ReviewRuns, task: TableTask, report: TaskReview) -> ReferenceSubmission | None:
    runs.begin()
    try:
        sample = runs.first_harness(report)
        runs.spy(task._source, sorted(task.data_hashes()), report)
        return sample
    except (ProviderDown, SandboxFailed) as error:
        raise TaskError(f"the reference harness could not be run: {error}") from error
    finally:
        runs.close()


def _offline(plain: dict[str, Any]) -> bool:
    return plain["provider"].get("kind") == "offline" and not (plain["target_agent"].get("provider") or {})
