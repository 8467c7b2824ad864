"""The loop of self-improvement in terms of stages. The journal records every step exactly once."""

from collections.abc import Callable, Sequence
from typing import Any

from sia_runner.compute.protocol import ComputeStep
from sia_runner.experiment import sign_off, stage_job, stages, summary
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.terminal import Display, cost_so_far, resume_line
from sia_runner.records import Lever
from sia_runner.selection.parents import plateau_reason
from sia_runner.store.journal import (
    FinishedGeneration,
    Journal,
    find_incumbent,
    finished_generations,
    minutes_spent,
    test_result_of,
)
from sia_runner.store.lease import RunLease
from sia_runner.store.run_directory import remove_tree
from sia_runner.wire.grants import BudgetSpent

Result = dict[str, Any]
StageFunction = Callable[..., Result]
VerdictFunction = Callable[[int | None], Result]  # the verdict on a candidate, given the incumbent

COMPLETED, NOT_SCORED, OUT_OF_BUDGET, INTERRUPTED = 0, 3, 4, 130


class ExperimentLoop:
    """One execution of an experiment in one run directory; completed steps are read from the journal."""

    def __init__(self, context: RunContext, journal: Journal, lease: RunLease, display: Display) -> None:
        self._context, self._journal = context, journal
        self._lease, self._display = lease, display

    def __call__(self) -> int:
        """Run the generations, then the final test, and return the exit code.

        Raises ProviderDown and the other errors that interrupt a run.
        """
        try:
            outcome = self._generations()
        except BudgetSpent as error:
            outcome = self._out_of_budget(str(error))
        try:
            self._test()
        except BudgetSpent as error:  # no test score was seen: a resume with more budget repeats the test
            outcome = self._out_of_budget(f"the final test: {error}")
        return self._close(outcome)

    def _out_of_budget(self, reason: str) -> str:
        self._journal.append("budget", reason=reason)
        self._display.say(f"budget spent: {reason}")
        return "budget"

    def interrupted(self) -> int:
        """Record the interruption in the journal and on the screen, and return the exit code.

        On a full disk it is shown on the screen only; nothing is lost, because the run can still be resumed.
        """
        try:
            self._journal.append("interrupted")
            self._publish("interrupted")
        except OSError as error:
            self._display.say(f"the summary could not be written: {error}")
            self._display.say(resume_line(self._context.run.path))
        return INTERRUPTED

    def wait_for_approval(self) -> int:
        """Publish that the run waits for a person's approval, and return the exit code.

        No step was cut off, and the journal holds nothing of the wait except the plan.
        """
        try:
            self._publish("interrupted")
        except OSError as error:
            self._display.say(f"the summary could not be written: {error}")
        return INTERRUPTED

    def _generations(self) -> str:
        """Run generations until the last, the proposer's stop or the end of the budget; return how the run ended."""
        limit = self._context.config.budget.minutes
        for n in range(1, self._context.config.max_gen + 1):
            has_verdict = any(g.n == n for g in finished_generations(self._journal))
            if not has_verdict and limit is not None and minutes_spent(self._journal) >= limit:
                reason = f"{minutes_spent(self._journal):.1f} of {limit:g} minutes"
                return self._out_of_budget(reason)
            if (not has_verdict and self._plateau(n)) or not self._generation(n):
                break
            self._publish("running")
        return "completed"

    def _plateau(self, n: int) -> bool:
        history = [past.to_past_generation() for past in finished_generations(self._journal)]
        reason = plateau_reason(self._context.config.search, history)
        if reason:
            self._record_stop(n, reason)
        return bool(reason)

    def _record_stop(self, n: int, reason: str) -> None:
        if not any(self._journal.of("stopped")):
            self._journal.append("stopped", n=n, reason=reason)
        self._display.say(f"generation {n}: {reason}")

    def _generation(self, n: int) -> bool:
        """Run one generation. Return False when the proposer wants to stop."""
        decision = self._candidate(n, finished_generations(self._journal)[: n - 1])
        if isinstance(decision, str):
            self._record_stop(n, decision)
            return False
        self._decide(n, decision)
        return True

    def _candidate(self, n: int, earlier: Sequence[FinishedGeneration]) -> VerdictFunction | str:
        """Propose from the `earlier` generations and evaluate the candidate.

        Returns the function that decides on the candidate, or the reason why the proposer wants to stop.
        """
        history = tuple(past.to_past_generation() for past in earlier)
        proposal = self._step(n, "propose", stages.propose, history, find_incumbent(earlier))
        if proposal["lever"] == Lever.STOP:
            return proposal["rationale"]
        return self._verdict_on_fault(proposal) or self._verdict_of_approver(n, proposal, earlier) or self._evaluate(n)

    def _decide(self, n: int, decision: VerdictFunction) -> None:
        """Accept or reject candidate `n` against the incumbent of all generations before it."""
        before = finished_generations(self._journal)[: n - 1]
        self._once(f"gen_{n}/accept", lambda: decision(find_incumbent(before)))
        generation = finished_generations(self._journal)[n - 1]
        if generation.status == "accepted":
            self._context.run.link_best(n)
        self._display.show_generation(generation, before)

    def _verdict_on_fault(self, proposal: Result) -> VerdictFunction | None:
        """Return the verdict when the proposer could not do its work, else None."""
        if not proposal["fault"]:
            return None
        return _verdict_without_score(proposal["fault"], _failure_status(proposal))

    def _verdict_of_approver(
        self, n: int, proposal: Result, before: Sequence[FinishedGeneration]
    ) -> VerdictFunction | None:
        """Return the verdict when a person rejected the plan, else None. Raises Waiting while nobody has answered."""
        if not sign_off.needs_sign_off(self._context.config, proposal["lever"]):
            return None
        self._once(f"gen_{n}/plan", lambda: sign_off.plan_step(self._context, n, before))
        reason = sign_off.rejection(self._journal, n)
        return None if reason is None else _verdict_without_score(reason, "rejected")

    def _exceeds_minutes(self, n: int) -> str:
        limit = self._context.config.budget.generation.minutes
        minutes = minutes_spent(self._journal, n)
        if limit is None or minutes < limit:
            return ""
        return f"budget.generation.minutes={limit:g} was spent before the run: {minutes:.1f} minutes"

    def _evaluate(self, n: int) -> VerdictFunction:
        """Build, gate, run and verify; each may end the candidate early. Return the function that decides on it."""
        build = self._build(n)
        if build["fault"]:
            return _verdict_without_score(build["fault"], _failure_status(build))
        gate = self._step(n, "gate", stages.gate)
        if gate["fault"]:
            return _verdict_without_score(f"gate: {gate['fault']}", _failure_status(gate))
        if reason := self._exceeds_minutes(n):
            return _verdict_without_score(reason, "unscored")
        execution = self._step(n, "run", stages.run_harness)
        verification = self._step(n, "verify", stages.verify, execution["runs"])
        if verification["unscored"] or verification["val"] is None:
            return _verdict_without_score(verification["failure"], _failure_status(verification))
        return lambda best: stages.decide(self._context, n, best)

    def _build(self, n: int) -> Result:
        folder = self._context.run.generation(n)
        with self._display.following(folder.path / "training.log"):
            if stages.trains_weights(self._context.run, n):
                result = self._step(n, "build", stages.build, kind="train")
            else:  # only writes a few files
                result = self._once(f"gen_{n}/build", lambda: stages.build(self._context, n))
        for scratch in (folder.training, folder.rollouts):  # the journaled build needs no checkpoints
            remove_tree(scratch)
        return result

    def _test(self) -> None:
        """Run the incumbent, and the first harness as the baseline, once on test."""
        generations = finished_generations(self._journal)
        best = find_incumbent(generations)
        if best is None or not self._context.task.has_test:
            return
        baseline = next((g for g in generations[:1] if g.val is not None), None)
        self._test_once(best)
        if baseline is not None and baseline.n != best:
            self._test_once(baseline.n)

    def _test_once(self, n: int) -> None:
        with self._display.stage("test", f"generation {n}"):
            self._once(f"test/gen_{n}", lambda: self._call(f"test/gen_{n}", "test", stages.final_test, n))

    def _step(self, n: int, name: str, stage: StageFunction, *arguments: Any, kind: str = "") -> Result:
        with self._display.stage(name, f"generation {n} of {self._context.config.max_gen}"):
            key = f"gen_{n}/{name}"
            return self._once(key, lambda: self._call(key, kind or name, stage, n, *arguments))

    def _call(self, key: str, kind: str, stage: StageFunction, n: int, *arguments: Any) -> Result:
        """Run the stage, as a job where the configuration says so."""
        step = ComputeStep(
            key=key,
            kind=kind,
            folder=self._context.run.job(key),
            submitted=self._journal.job(key),
            note=lambda job: self._record_job(key, kind, job),
            say=self._display.say,
            entry=stage_job.run_stage_in_job,
            progress=self._context.run.generation(n).training if kind == "train" else None,
        )
        return self._context.compute.call(step, stage, self._context, n, *arguments)

    def _record_job(self, key: str, kind: str, job: str) -> None:
        self._lease.check()
        earlier = [entry["job"] for entry in self._journal.of("job") if entry["step"] == key]
        self._journal.append("job", step=key, kind=kind, job=job, folder=f"jobs/{key}")
        gateway = self._context.gateway
        if earlier and gateway:
            gateway.release_allowances(earlier)

    def _once(self, key: str, work: Callable[[], Result]) -> Result:
        self._lease.check()
        return self._journal.once(key, work)

    def _close(self, outcome: str) -> int:
        best = find_incumbent(finished_generations(self._journal))
        test = test_result_of(self._journal, best)
        scored = best is not None and (not self._context.task.has_test or bool(test and test["score"]))
        status = outcome if scored or outcome == "budget" else "failed"
        self._journal.append("ended", status=status, best=best)
        self._publish(status)
        if scored:
            return COMPLETED
        return OUT_OF_BUDGET if outcome == "budget" else NOT_SCORED

    def _publish(self, status: str) -> dict[str, Any]:
        config, run = self._context.config, self._context.run
        state = summary.build_summary(self._context, self._journal, status)
        summary.write_summary(run, state)
        self._context.tracker.update(run.path, state)
        if status == "running":
            self._display.show_cost(cost_so_far(state["usage"], minutes_spent(self._journal), config.budget))
        else:
            self._display.show_summary(state, run.path)
        return state


def _verdict_without_score(reason: str, status: str = "failed") -> VerdictFunction:
    """Return a verdict function for a candidate without a score; it ignores the incumbent."""
    return lambda _: {"status": status, "reason": reason}


def _failure_status(step: Result) -> str:
    """Return "unscored" for a step that had no fair chance, "failed" for one that failed by itself."""
    return "unscored" if step.get("unscored") else "failed"
