"""The loop with several candidates at once; see "Candidates in parallel" in docs/architecture.md."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from sia_runner.experiment.loop import ExperimentLoop, R, to_history
from sia_runner.records import Lever, RunStatus
from sia_runner.selection.parents import plateau_reason, verdicts_available
from sia_runner.stage_results import ProposeResult, Verdict
from sia_runner.store.journal import finished_generations

T = TypeVar("T")


class CandidatePool(Generic[T]):
    """A pool in which `work(n)` runs on a thread of its own once `verdicts_available(n)` candidates were collected.

    So at most `in_flight` run at once. On exit the running ones are waited for, except after an interrupt.
    """

    def __init__(self, work: Callable[[int], T], last: int, in_flight: int) -> None:
        self._work, self._last, self._in_flight = work, last, in_flight
        self._candidates: dict[int, tuple[threading.Thread, Future[T]]] = {}
        self.closed = False  # set it to True: no further candidate starts; running ones can still be collected
        self.is_over = False  # True: nobody waits for candidates any more; a running one stops at its next step

    def __enter__(self) -> "CandidatePool[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.is_over = True
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            for thread, _future in self._candidates.values():
                thread.join()

    def result_of(self, n: int) -> T | None:
        """Wait for candidate `n` and return its result, or raise what its work raised; None if it never started."""
        while not self.closed and (following := len(self._candidates) + 1) <= self._last:
            if verdicts_available(following, self._in_flight) >= n:
                break
            future = Future[T]()
            thread = threading.Thread(target=self._carry_out, args=(following, future), daemon=True)
            self._candidates[following] = thread, future
            thread.start()
        return self._candidates[n][1].result() if n in self._candidates else None

    def _carry_out(self, n: int, future: Future[T]) -> None:
        try:
            future.set_result(self._work(n))
        except BaseException as error:  # noqa: BLE001 - it is raised again in result_of
            future.set_exception(error)


class _CandidateDropped(Exception):
    """Raised on the thread of a candidate that the run has ended without."""


class ConcurrentLoop(ExperimentLoop):
    """A loop that evaluates `search.parallel_candidates` candidates at once."""

    def _generations(self) -> RunStatus:
        # candidates under evaluation still get their verdict when the budget is spent or a plateau is reached;
        # those proposed after a proposer's `stop` are dropped
        search, last, reason = self._config.search, self._config.max_gen, ""
        with CandidatePool(self._evaluate_early, last, search.parallel_candidates) as self._pipeline:
            for n in range(1, last + 1):
                plateau = plateau_reason(search, to_history(finished_generations(self._journal)[: n - 1]))
                if plateau and not self._pipeline.closed:
                    self._record_stop(n, plateau)
                reason = reason or self._minutes_over(n)
                if plateau or reason:
                    self._pipeline.closed = True
                candidate = self._pipeline.result_of(n)
                if candidate is None:
                    return self._out_of_budget(reason) if reason else RunStatus.COMPLETED
                proposal, verdict = candidate
                if proposal.lever is Lever.STOP:
                    self._record_stop(n, proposal.rationale)
                    break
                self._decide(n, verdict)
                self._publish(RunStatus.RUNNING)
        return RunStatus.COMPLETED

    def _evaluate_early(self, n: int) -> tuple[ProposeResult, Verdict | None]:
        known = verdicts_available(n, self._config.search.parallel_candidates)
        earlier = finished_generations(self._journal)[:known]
        proposal = self._propose(n, earlier)
        return proposal, None if proposal.lever is Lever.STOP else self._evaluate(n, proposal, earlier)

    def _once(self, result: type[R], key: str, work: Callable[[], R]) -> R:
        if self._pipeline.is_over and threading.current_thread() is not threading.main_thread():
            raise _CandidateDropped(key)
        return super()._once(result, key, work)
