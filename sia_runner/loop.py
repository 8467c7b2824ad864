"""The loop of self-improvement, in terms of stages. Every step goes through the journal once."""

from collections.abc import Callable, Sequence
from typing import Any

from sia_runner import stages
from sia_runner.approve import approval
from sia_runner.compute.protocol import Step
from sia_runner.config import Experiment
from sia_runner.ground.history import Finished, finished, incumbent, minutes_spent, test_of
from sia_runner.ground.journal import Journal
from sia_runner.ground.lease import Lease
from sia_runner.models.protocol import BudgetSpent
from sia_runner.propose.search import plateau
from sia_runner.records import Lever
from sia_runner.rooms import models, rooms
from sia_runner.run import in_job, summary
from sia_runner.run.display import Display, resume_line
from sia_runner.run.tally import so_far
from sia_runner.rundir import RunDir, remove

Result = dict[str, Any]
Stage = Callable[..., Result]
Decision = Callable[[int | None], Result]  # the verdict on a candidate, given the incumbent

COMPLETED, NOT_SCORED, OUT_OF_BUDGET, INTERRUPTED = 0, 3, 4, 130


class Loop:
    """One execution of an experiment in one run directory; done steps are taken from the journal."""

    def __init__(self, config: Experiment, run: RunDir, journal: Journal, lease: Lease, display: Display) -> None:
        self._config, self._run, self._journal = config, run, journal
        self._lease, self._display = lease, display

    def __call__(self) -> int:
        """Generations, then the test. Returns the exit code. Raises ProviderDown and what else interrupts a run."""
        try:
            ended = self._generations()
        except BudgetSpent as spent:
            ended = self._out_of_budget(str(spent))
        try:
            self._test()
        except BudgetSpent as spent:  # not a look at test: it is done again when a resume brings more budget
            ended = self._out_of_budget(f"the final test: {spent}")
        return self._close(ended)

    def _out_of_budget(self, reason: str) -> str:
        self._journal.append("budget", reason=reason)
        self._display.say(f"budget spent: {reason}")
        return "budget"

    def interrupted(self) -> int:
        """Say so in the journal and on the screen; on a full disk on the screen only, which loses nothing."""
        try:
            self._journal.append("interrupted")
            self._publish("interrupted")
        except OSError as error:
            self._display.say(f"the summary could not be written: {error}")
            self._display.say(resume_line(self._run.path))
        return INTERRUPTED

    def waits(self) -> int:
        """For a person's answer: nothing was cut, and nothing is journaled but the plan."""
        try:
            self._publish("interrupted")
        except OSError as error:
            self._display.say(f"the summary could not be written: {error}")
        return INTERRUPTED

    def _generations(self) -> str:
        """Runs generations until the last one, the proposer's stop or the budget; returns how it ended."""
        limit = self._config.budget.minutes
        for n in range(1, self._config.max_gen + 1):
            already = any(g.n == n for g in finished(self._journal))
            if not already and limit is not None and minutes_spent(self._journal) >= limit:
                spent = f"{minutes_spent(self._journal):.1f} of {limit:g} minutes"
                return self._out_of_budget(spent)
            if (not already and self._plateau(n)) or not self._generation(n):
                break
            self._publish("running")
        return "completed"

    def _plateau(self, n: int) -> bool:
        history = [past.as_past() for past in finished(self._journal)]
        reason = plateau(self._config.search, history)
        if reason:
            self._stopped(n, reason)
        return bool(reason)

    def _stopped(self, n: int, reason: str) -> None:
        if not any(self._journal.of("stopped")):
            self._journal.append("stopped", n=n, reason=reason)
        self._display.say(f"generation {n}: {reason}")

    def _generation(self, n: int) -> bool:
        """One generation, in DESIGN's order. False when the proposer wants to stop."""
        decision = self._candidate(n, finished(self._journal)[: n - 1])
        if isinstance(decision, str):
            self._stopped(n, decision)
            return False
        self._decide(n, decision)
        return True

    def _candidate(self, n: int, known: Sequence[Finished]) -> Decision | str:
        """Propose, on what is `known` of earlier generations, and evaluate. Returns what decides on the candidate, or
        why the proposer wants to stop."""
        history = tuple(past.as_past() for past in known)
        proposal = self._step(n, "propose", stages.propose, history, incumbent(known))
        if proposal["lever"] == Lever.STOP:
            return proposal["rationale"]
        return self._unfit(proposal) or self._unsigned(n, proposal, known) or self._evaluate(n)

    def _decide(self, n: int, decision: Decision) -> None:
        """Against the incumbent of all generations before."""
        before = finished(self._journal)[: n - 1]
        self._once(f"gen_{n}/accept", lambda: decision(incumbent(before)))
        judged = finished(self._journal)[n - 1]
        if judged.status == "accepted":
            self._run.point_best(n)
        self._display.generation(judged, before)

    def _unfit(self, proposal: Result) -> Decision | None:
        """The verdict when the proposer could not do its work."""
        if not proposal["fault"]:
            return None
        return _ended(proposal["fault"], _status(proposal))

    def _unsigned(self, n: int, proposal: Result, before: Sequence[Finished]) -> Decision | None:
        """The verdict when a person rejected the plan. Raises Waiting while nobody has answered."""
        if not approval.needed(self._config, proposal["lever"]):
            return None
        self._once(f"gen_{n}/plan", lambda: approval.plan(self._config, self._run, n, before))
        why = approval.rejection(self._journal, n)
        return None if why is None else _ended(why, "rejected")

    def _over_time(self, n: int) -> str:
        limit = self._config.budget.generation.minutes
        spent = minutes_spent(self._journal, n)
        if limit is None or spent < limit:
            return ""
        return f"budget.generation.minutes={limit:g} was spent before the run: {spent:.1f} minutes"

    def _evaluate(self, n: int) -> Decision:
        """Build, gate, run and verify; each may end the candidate early. Returns what decides on it."""
        built = self._build(n)
        if built["fault"]:
            return _ended(built["fault"], _status(built))
        gated = self._step(n, "gate", stages.gate)
        if gated["fault"]:
            return _ended(f"gate: {gated['fault']}", _status(gated))
        if over := self._over_time(n):
            return _ended(over, "unscored")
        ran = self._step(n, "run", stages.run_harness)
        checked = self._step(n, "verify", stages.verify, ran["runs"])
        if checked["unscored"] or checked["val"] is None:
            return _ended(checked["failure"], _status(checked))
        return lambda best: stages.judge(self._config, self._run, n, best)

    def _build(self, n: int) -> Result:
        here = self._run.generation(n)
        with self._display.following(here.path / "training.log"):
            if stages.trains(self._run, n):
                built = self._step(n, "build", stages.build, kind="train")
            else:  # a few files are written
                built = self._once(f"gen_{n}/build", lambda: stages.build(self._config, self._run, n))
        for scratch in (here.training, here.rollouts):  # journaled: nobody resumes from its checkpoints any more
            remove(scratch)
        return built

    def _test(self) -> None:
        """The incumbent, and the first harness as baseline, once on test."""
        generations = finished(self._journal)
        best = incumbent(generations)
        if best is None or not rooms(self._config).task.has_test:
            return
        baseline = next((g for g in generations[:1] if g.val is not None), None)
        self._test_once(best)
        if baseline is not None and baseline.n != best:
            self._test_once(baseline.n)

    def _test_once(self, n: int) -> None:
        with self._display.stage("test", f"generation {n}"):
            self._once(f"test/gen_{n}", lambda: self._call(f"test/gen_{n}", "test", stages.test, n))

    def _step(self, n: int, name: str, stage: Stage, *given: Any, kind: str = "") -> Result:
        with self._display.stage(name, f"generation {n} of {self._config.max_gen}"):
            key = f"gen_{n}/{name}"
            return self._once(key, lambda: self._call(key, kind or name, stage, n, *given))

    def _call(self, key: str, kind: str, stage: Stage, n: int, *given: Any) -> Result:
        """By a job where the configuration says so."""
        step = Step(
            key=key,
            kind=kind,
            folder=self._run.job(key),
            submitted=self._journal.job(key),
            note=lambda job: self._submitted(key, kind, job),
            say=self._display.say,
            entry=in_job.carry_out,
            progress=self._run.generation(n).training if kind == "train" else None,
        )
        return rooms(self._config).compute.call(step, stage, self._config, self._run, n, *given)

    def _submitted(self, key: str, kind: str, job: str) -> None:
        self._lease.check()
        earlier = [entry["job"] for entry in self._journal.of("job") if entry["step"] == key]
        self._journal.append("job", step=key, kind=kind, job=job, folder=f"jobs/{key}")
        gateway = models(self._config, self._run)
        if earlier and gateway:
            gateway.bury(earlier)

    def _once(self, key: str, work: Callable[[], Result]) -> Result:
        self._lease.check()
        return self._journal.once(key, work)

    def _close(self, ended: str) -> int:
        best = incumbent(finished(self._journal))
        tested = test_of(self._journal, best)
        scored = best is not None and (not rooms(self._config).task.has_test or bool(tested and tested["score"]))
        status = ended if scored or ended == "budget" else "failed"
        self._journal.append("ended", status=status, best=best)
        self._publish(status)
        if scored:
            return COMPLETED
        return OUT_OF_BUDGET if ended == "budget" else NOT_SCORED

    def _publish(self, status: str) -> dict[str, Any]:
        now = summary.build(self._config, self._run, self._journal, status)
        summary.write(self._run, now)
        rooms(self._config).tracker.update(self._run.path, now)
        if status == "running":
            self._display.spent(so_far(now["usage"], minutes_spent(self._journal), self._config.budget))
        else:
            self._display.end(now, self._run.path)
        return now


def _ended(reason: str, status: str = "failed") -> Decision:
    """The verdict on a candidate without a score, whatever the incumbent."""
    return lambda _: {"status": status, "reason": reason}


def _status(step: Result) -> str:
    """Failed by itself, or never given a fair chance."""
    return "unscored" if step.get("unscored") else "failed"
