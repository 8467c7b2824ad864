"""The loop with several candidates at once (`search.in_flight`): it evaluates while the next proposals are written.

Proposal n is based on exactly the verdicts on candidates 1 to n - in_flight. Verdicts are given in the order of the
numbers, each against the incumbent of all candidates before. So the result depends neither on how long anything took
nor on how often the run was interrupted.
"""

import threading
from collections.abc import Callable

from sia_runner.ground.history import finished, minutes_spent
from sia_runner.loop import Decision, Loop, Result
from sia_runner.propose.search import plateau
from sia_runner.records import Past
from sia_runner.rooms import rooms
from sia_runner.run.flight import Flight, known


class _CandidateDropped(Exception):
    """Raised on the thread of a candidate that the run has ended without."""


class Steady(Loop):
    """A loop that evaluates `search.in_flight` candidates at once."""

    def __call__(self) -> int:
        try:
            return super().__call__()
        except KeyboardInterrupt:
            rooms(self._config).compute.end()
            raise

    def _generations(self) -> str:
        """Run all generations, as Loop does; return how the run ended.

        Candidates under evaluation still get their verdict when the budget is spent or a plateau is reached. Those
        proposed after a proposer's `stop` are dropped.
        """
        search, last, reason = self._config.search, self._config.max_gen, ""
        with Flight(self._evaluate_early, last, search.in_flight) as self._pipeline:
            for n in range(1, last + 1):
                if (plateau_reason := plateau(search, self._history(n - 1))) and not self._pipeline.closed:
                    self._record_stop(n, plateau_reason)
                reason = reason or self._minutes_over(n)
                if plateau_reason or reason:
                    self._pipeline.close()
                decision = self._pipeline.result_of(n)
                if decision is None:
                    return self._out_of_budget(reason) if reason else "completed"
                if isinstance(decision, str):
                    self._record_stop(n, decision)
                    break
                self._decide(n, decision)
                self._publish("running")
        return "completed"

    def _history(self, n: int) -> list[Past]:
        return [past.as_past() for past in finished(self._journal)[:n]]

    def _minutes_over(self, n: int) -> str:
        """Return why no new candidate may start when `n` is next; empty while time is left.

        A generation that already has its verdict is not new.
        """
        limit, minutes = self._config.budget.minutes, minutes_spent(self._journal)
        if limit is None or minutes < limit or len(finished(self._journal)) >= n:
            return ""
        return f"{minutes:.1f} of {limit:g} minutes"

    def _evaluate_early(self, n: int) -> Decision | str:
        return self._candidate(n, finished(self._journal)[: known(n, self._config.search.in_flight)])

    def _once(self, key: str, work: Callable[[], Result]) -> Result:
        if self._pipeline.is_over and threading.current_thread() is not threading.main_thread():
            raise _CandidateDropped(key)
        return super()._once(key, work)
