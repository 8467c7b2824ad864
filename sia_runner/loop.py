"""The loop of self-improvement, in terms of stages. Every step goes through the journal once."""

from collections.abc import Callable
from typing import Any

from sia_runner import stages, summary
from sia_runner.config import Experiment
from sia_runner.display import Display, resume_line
from sia_runner.history import finished, incumbent, minutes_spent, test_of
from sia_runner.journal import Journal
from sia_runner.lease import Lease
from sia_runner.records import Lever
from sia_runner.rooms import rooms
from sia_runner.rundir import RunDir

Result = dict[str, Any]
Stage = Callable[..., Result]

COMPLETED, NOT_SCORED, OUT_OF_BUDGET, INTERRUPTED = 0, 3, 4, 130


class Loop:
    """One execution of an experiment in one run directory; done steps are taken from the journal."""

    def __init__(self, config: Experiment, run: RunDir, journal: Journal, lease: Lease, display: Display) -> None:
        self._config, self._run, self._journal = config, run, journal
        self._lease, self._display = lease, display

    def __call__(self) -> int:
        """Generations, then the test. Returns the exit code."""
        ended = self._generations()
        self._test()
        return self._close(ended)

    def interrupted(self) -> int:
        """Say so in the journal and on the screen; on a full disk on the screen only, which loses nothing."""
        try:
            self._journal.append("interrupted")
            self._publish("interrupted")
        except OSError as error:
            self._display.say(f"the summary could not be written: {error}")
            self._display.say(resume_line(self._run.path))
        return INTERRUPTED

    def _generations(self) -> str:
        """Runs generations until the last one, the proposer's stop or the budget; returns how it ended."""
        limit = self._config.budget.minutes
        for n in range(1, self._config.max_gen + 1):
            already = any(g.n == n for g in finished(self._journal))
            if not already and limit is not None and minutes_spent(self._journal) >= limit:
                self._journal.append("budget", minutes=round(minutes_spent(self._journal), 2), limit=limit)
                return "budget"
            if not self._generation(n):
                break
            self._publish("running")
        return "completed"

    def _generation(self, n: int) -> bool:
        """One generation, in DESIGN's order. False when the proposer wants to stop."""
        before = finished(self._journal)[: n - 1]
        best = incumbent(before)
        history = tuple(past.as_past() for past in before)
        proposal = self._step(n, "propose", stages.propose, history, best)
        if proposal["lever"] == Lever.STOP:
            if not any(self._journal.of("stopped")):
                self._journal.append("stopped", n=n, reason=proposal["rationale"])
            self._display.say(f"generation {n}: {proposal['rationale']}")
            return False
        verdict = self._evaluate(n, best)
        self._once(f"gen_{n}/accept", verdict)
        judged = finished(self._journal)[n - 1]
        if judged.status == "accepted":
            self._run.point_best(n)
        self._display.generation(judged, before)
        return True

    def _evaluate(self, n: int, best: int | None) -> Callable[[], Result]:
        """Build, gate, run and verify; each may end the candidate early. Returns what decides on it."""
        built = self._step(n, "build", stages.build)
        if built["fault"]:
            return lambda: _failed(built["fault"])
        gated = self._step(n, "gate", stages.gate)
        if gated["fault"]:
            return lambda: _failed(f"gate: {gated['fault']}")
        ran = self._step(n, "run", stages.run_harness)
        checked = self._step(n, "verify", stages.verify, ran["runs"])
        if checked["unscored"]:
            return lambda: {"status": "unscored", "reason": checked["failure"]}
        if checked["val"] is None:
            return lambda: _failed(checked["failure"])
        return lambda: stages.judge(self._config, self._run, n, best)

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
            self._once(f"test/gen_{n}", lambda: self._call(stages.test, n))

    def _step(self, n: int, name: str, stage: Stage, *given: Any) -> Result:
        with self._display.stage(name, f"generation {n} of {self._config.max_gen}"):
            return self._once(f"gen_{n}/{name}", lambda: self._call(stage, n, *given))

    def _call(self, stage: Stage, n: int, *given: Any) -> Result:
        return rooms(self._config).compute.call(stage, self._config, self._run, n, *given)

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
        if status != "running":
            self._display.end(now, self._run.path)
        return now


def _failed(reason: str) -> Result:
    return {"status": "failed", "reason": reason}
