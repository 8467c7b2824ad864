"""The loop of self-improvement, from top to bottom: generations, each a row of stages, then the final test.

The journal records every stage exactly once: a resumed run reads the results of those that are done.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sia_runner.compute.protocol import ComputeStep, JobStopped
from sia_runner.experiment import sign_off, stages
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.control import budget_reason
from sia_runner.experiment.execution import run_stage_in_job
from sia_runner.experiment.resources import asks_servers
from sia_runner.experiment.summary import build_summary, context_markdown
from sia_runner.experiment.terminal import Display, cost_so_far, resume_line
from sia_runner.records import Lever, PastGeneration, RunStatus, Stage, Status
from sia_runner.selection.parents import plateau_reason
from sia_runner.stage_results import (
    BuildResult,
    GateResult,
    PlanResult,
    ProposeResult,
    RunResult,
    StageResult,
    TestResult,
    Verdict,
    VerifyResult,
)
from sia_runner.store.directions import count_waiting, journal_directions
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.journal import Journal, find_incumbent, finished_generations, minutes_spent, test_result_of
from sia_runner.store.lease import RunLease
from sia_runner.store.run_directory import remove_tree, write_json, write_text
from sia_runner.wire.grants import BudgetSpent, ProviderDown

R = TypeVar("R", bound=StageResult)

_STAGE_REPEATS = 3  # times that a stage is repeated because servers ended in the middle of it
COMPLETED, NOT_SCORED, OUT_OF_BUDGET, INTERRUPTED = 0, 3, 4, 130  # exit codes


class ExperimentLoop:
    """One execution of an experiment in one run directory; completed steps are read from the journal."""

    def __init__(self, context: RunContext, journal: Journal, lease: RunLease, display: Display) -> None:
        self._context, self._config, self._run = context, context.config, context.run
        self._journal, self._lease, self._display = journal, lease, display

    def __call__(self) -> int:
        """Run the generations, then the final test; return the exit code. Raises the errors that interrupt a run."""
        try:
            status = self._generations()
        except BudgetSpent as error:
            status = self._out_of_budget(str(error))
        try:
            self._test()
        except BudgetSpent as error:  # no test score was seen: a resume with more budget repeats the test
            status = self._out_of_budget(f"the final test: {error}")
        return self._close(status)

    def _generations(self) -> RunStatus:
        """Run generations until the last, the proposer's stop or the end of the budget; return how the run ended."""
        for n in range(1, self._config.max_gen + 1):
            if reason := self._minutes_over(n):
                return self._out_of_budget(reason)
            finished = finished_generations(self._journal)
            if len(finished) < n and (reason := plateau_reason(self._config.search, to_history(finished))):
                self._record_stop(n, reason)
                break
            if len(finished) < n and (reason := budget_reason(self._context, self._journal)):
                self._record_stop(n, reason)
                break
            earlier = finished[: n - 1]
            proposal = self._propose(n, earlier)
            if proposal.lever is Lever.STOP:
                self._record_stop(n, proposal.rationale)
                break
            self._decide(n, self._evaluate(n, proposal, earlier))
            self._publish(RunStatus.RUNNING)
        return RunStatus.COMPLETED

    def _minutes_over(self, n: int) -> str:
        """Return why no new candidate may start when `n` is next; empty while time is left, or if `n` has a verdict."""
        limit, minutes = self._config.budget.minutes, minutes_spent(self._journal)
        over = limit is not None and minutes >= limit and len(finished_generations(self._journal)) < n
        return f"{minutes:.1f} of {limit:g} minutes" if over else ""

    def _propose(self, n: int, earlier: Sequence[GenerationRecord]) -> ProposeResult:
        key = f"gen_{n}/{Stage.PROPOSE}"
        if self._journal.result(key) is None and not self._journal.job(key):  # a job has read the journal already
            self._lease.check()
            for direction in journal_directions(self._run, self._journal, n):
                self._display.say(direction.sentence)
        history, incumbent = to_history(earlier), find_incumbent(earlier)
        return self._stage(ProposeResult, n, Stage.PROPOSE, stages.propose, history, incumbent)

    def _evaluate(self, n: int, proposal: ProposeResult, earlier: Sequence[GenerationRecord]) -> Verdict | None:
        """Sign off, build, gate, run and verify candidate `n`. Return the verdict on one without a score, else None."""
        if proposal.fault:
            return _no_score(proposal.fault, proposal.unscored)
        if sign_off.needs_sign_off(self._config, proposal.lever):
            self._once(PlanResult, f"gen_{n}/{Stage.PLAN}", lambda: sign_off.write_plan(self._context, n, earlier))
            if rejection := sign_off.rejection(self._journal, n):
                return Verdict(Status.REJECTED, rejection)
        folder = self._run.generation(n)
        with self._display.following(folder.path / "training.log"):
            if proposal.lever is Lever.HARNESS:  # only writes a few files
                built = self._once(BuildResult, f"gen_{n}/{Stage.BUILD}", lambda: stages.build(self._context, n))
            else:
                built = self._stage(BuildResult, n, Stage.BUILD, stages.build, kind=Stage.TRAIN)
        for scratch in (folder.training, folder.rollouts):  # the journaled build needs no checkpoints
            remove_tree(scratch)
        if built.fault:
            return _no_score(built.fault, built.unscored)
        gate = self._stage(GateResult, n, Stage.GATE, stages.gate)
        if gate.fault:
            return _no_score(f"gate: {gate.fault}", gate.unscored)
        limit, minutes = self._config.budget.generation.minutes, minutes_spent(self._journal, n)
        if limit is not None and minutes >= limit:
            reason = f"budget.generation.minutes={limit:g} was spent before the run: {minutes:.1f} minutes"
            return Verdict(Status.UNSCORED, reason)
        executed = self._stage(RunResult, n, Stage.RUN, stages.run_harness)
        verified = self._stage(VerifyResult, n, Stage.VERIFY, stages.verify, executed.runs)
        return _no_score(verified.failure, verified.unscored) if verified.val is None else None

    def _decide(self, n: int, without_score: Verdict | None) -> None:
        """Record the verdict on candidate `n`; one with a score is compared with the incumbent of that time."""
        before, key = finished_generations(self._journal)[: n - 1], f"gen_{n}/{Stage.ACCEPT}"
        incumbent = find_incumbent(before)
        verdict = self._once(Verdict, key, lambda: without_score or stages.decide(self._context, n, incumbent))
        if verdict.accepted:
            self._run.link_best(n)
        self._display.show_generation(finished_generations(self._journal)[n - 1], before)

    def _test(self) -> None:
        generations = finished_generations(self._journal)
        best = find_incumbent(generations)
        if best is None or not self._context.task.has_test:
            return
        first = generations[0]
        for n in [best, first.n] if first.val is not None and first.n != best else [best]:
            self._stage(TestResult, n, Stage.TEST, stages.final_test)

    def _close(self, status: RunStatus) -> int:
        best = find_incumbent(finished_generations(self._journal))
        test = test_result_of(self._journal, best)
        scored = best is not None and (not self._context.task.has_test or bool(test and test["score"]))
        if not scored and status is not RunStatus.BUDGET:
            status = RunStatus.FAILED
        self._journal.append("ended", status=status.value, best=best)
        if late := count_waiting(self._run.path):
            self._display.say(f"{late} of a person's notes came after the last proposal: only a resume would use them")
        self._publish(status)
        return COMPLETED if scored else OUT_OF_BUDGET if status is RunStatus.BUDGET else NOT_SCORED

    # Carrying out and recording

    def _stage(
        self, result: type[R], n: int, stage: Stage, work: Callable[..., R], *arguments: Any, kind: Stage | None = None
    ) -> R:
        """Run a stage of generation `n`, as a job where the configuration says so, or read its result."""
        test, job_kind = stage is Stage.TEST, kind or stage
        key = f"{stage}/gen_{n}" if test else f"gen_{n}/{stage}"
        step = ComputeStep(
            key=key,
            kind=job_kind.value,
            folder=self._run.job(key),
            submitted=self._journal.job(key),
            note=lambda job: self._record_job(key, job_kind, job),
            say=self._display.say,
            entry=run_stage_in_job,
            progress=self._run.generation(n).training if job_kind is Stage.TRAIN else None,
        )
        self._display.show_stage(stage, f"generation {n}" if test else f"generation {n} of {self._config.max_gen}")
        arguments = (self._context, n, *arguments)
        if asks_servers(self._config, job_kind) and self._journal.result(key) is None:
            return self._stage_with_servers(result, step, work, arguments)
        return self._once(result, key, lambda: self._context.compute.call(step, work, *arguments))

    def _stage_with_servers(
        self, result: type[R], step: ComputeStep, work: Callable[..., R], arguments: tuple[Any, ...]
    ) -> R:
        """Run a stage while the servers that all stages share answer; again if they ended in the middle of it.

        Its time, and the time limit of its job, begin when a server answers. Raises ProviderDown if none will.
        """
        context, servers = self._context, self._context.servers
        assert servers is not None  # noqa: S101 - asks_servers
        servers.wait(self._display.say)

        def call() -> R:
            repeats = 0
            while True:
                servers.wait(self._display.say)
                before = servers.present()
                try:
                    return context.compute.call(replace(step, submitted=None) if repeats else step, work, *arguments)
                except (ProviderDown, JobStopped) as failed:
                    alone = self._config.search.parallel_candidates == 1
                    repeatable = alone or context.compute.apart
                    if repeats == _STAGE_REPEATS or not repeatable or servers.present() == before:
                        raise
                    self._display.say(f"{step.key}: it is repeated, since the vLLM servers ended: {failed}")
                    if alone:  # threads of other candidates may be in the middle of calls
                        context.close_gateway()  # which takes no more calls once some failed
                    repeats += 1

        return self._once(result, step.key, call)

    def _once(self, result: type[R], key: str, work: Callable[[], R]) -> R:
        self._lease.check()
        return result.from_json(self._journal.once(key, lambda: work().to_json()))

    def _record_job(self, key: str, kind: Stage, job: str) -> None:
        self._lease.check()
        earlier = [entry["job"] for entry in self._journal.of("job") if entry["step"] == key]
        self._journal.append("job", step=key, kind=kind.value, job=job, folder=f"jobs/{key}")
        if earlier and (gateway := self._context.gateway):
            gateway.ledger.release_allowances(earlier)

    def _record_stop(self, n: int, reason: str) -> None:
        if not any(self._journal.of("stopped")):
            self._journal.append("stopped", n=n, reason=reason)
        self._display.say(f"generation {n}: {reason}")

    def _out_of_budget(self, reason: str) -> RunStatus:
        self._journal.append("budget", reason=reason)
        self._display.say(f"budget spent: {reason}")
        return RunStatus.BUDGET

    def _publish(self, status: RunStatus) -> None:
        state, last = build_summary(self._context, self._journal, status), status is not RunStatus.RUNNING
        write_json(self._run.summary, state, durable=last)
        write_json(self._run.path / "usage.json", state["usage"], durable=last)
        write_text(self._run.context, context_markdown(state), durable=last)
        self._context.tracker.update(self._run.path, state)
        if last:
            self._display.show_summary(state, self._run.path)
        else:
            self._display.show_cost(cost_so_far(state["usage"], minutes_spent(self._journal), self._config.budget))

    def interrupted(self, *, waits: bool = False) -> int:
        """Record the interruption, on the screen alone if the disk is full; return the exit code."""
        try:
            if not waits:  # for a person, which is no cut: the journal has the plan
                self._journal.append("interrupted")
            self._publish(RunStatus.INTERRUPTED)
        except OSError as error:
            self._display.say(f"the summary could not be written: {error}")
            self._display.say(resume_line(self._run.path))
        return INTERRUPTED


def to_history(generations: Sequence[GenerationRecord]) -> tuple[PastGeneration, ...]:
    """Return what proposers and rules of selection may see of these generations."""
    return tuple(generation.to_past_generation() for generation in generations)


def _no_score(reason: str, unscored: bool | None) -> Verdict:
    """Return the verdict on a candidate that failed by itself, or that had no fair chance (`unscored`)."""
    return Verdict(Status.UNSCORED if unscored else Status.FAILED, reason)
