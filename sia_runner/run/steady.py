"""The loop with `search.in_flight` candidates under way: evaluation goes on while the next proposals are written.

Proposal n is made from the verdicts on candidates 1 to n - in_flight, exactly these, and verdicts fall in the order of
numbers, each against the incumbent of all candidates before. So a run does not depend on what took how long, nor on how
often it was cut.
"""

import threading
from collections.abc import Callable

from sia_runner.ground.history import finished, minutes_spent
from sia_runner.loop import Decision, Loop, Result
from sia_runner.propose.search import plateau
from sia_runner.records import Past
from sia_runner.rooms import rooms
from sia_runner.run.flight import Flight, known


class _Dropped(Exception):
    """The run has ended without this candidate."""


class Steady(Loop):
    def __call__(self) -> int:
        try:
            return super().__call__()
        except KeyboardInterrupt:
            rooms(self._config).compute.end()
            raise

    def _generations(self) -> str:
        """As Loop's. What is under way when the budget is spent or a plateau is reached still gets its verdict; what is
        under way behind a proposer's `stop` is dropped."""
        search, last, spent = self._config.search, self._config.max_gen, ""
        with Flight(self._under_way, last, search.in_flight) as self._flight:
            for n in range(1, last + 1):
                if (reached := plateau(search, self._history(n - 1))) and not self._flight.closed:
                    self._stopped(n, reached)
                spent = spent or self._minutes_over(n)
                if reached or spent:
                    self._flight.close()
                landed = self._flight.land(n)
                if landed is None:
                    return self._out_of_budget(spent) if spent else "completed"
                if isinstance(landed, str):
                    self._stopped(n, landed)
                    break
                self._decide(n, landed)
                self._publish("running")
        return "completed"

    def _history(self, n: int) -> list[Past]:
        return [past.as_past() for past in finished(self._journal)[:n]]

    def _minutes_over(self, n: int) -> str:
        """Why nothing new may begin, now that `n` is next; a generation that has its verdict is no new one."""
        limit, spent = self._config.budget.minutes, minutes_spent(self._journal)
        if limit is None or spent < limit or len(finished(self._journal)) >= n:
            return ""
        return f"{spent:.1f} of {limit:g} minutes"

    def _under_way(self, n: int) -> Decision | str:
        return self._candidate(n, finished(self._journal)[: known(n, self._config.search.in_flight)])

    def _once(self, key: str, work: Callable[[], Result]) -> Result:
        if self._flight.over and threading.current_thread() is not threading.main_thread():
            raise _Dropped(key)
        return super()._once(key, work)
