"""The loop with several candidates at once (`search.parallel_candidates`): it evaluates while it asks for proposals.

With K candidates, proposal n is based on exactly the verdicts on candidates 1 to n - K. Verdicts are given in the order
of the numbers, each against the incumbent of all candidates before. So the result depends neither on how long anything
took nor on how often the run was interrupted.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from sia_runner.experiment.loop import ExperimentLoop, R, to_history
from sia_runner.records import Lever, RunStatus
from sia_runner.selection.parents import plateau_reason
from sia_runner.stage_results import ProposeResult, Verdict
from sia_runner.store.journal import finished_generations

T = TypeVar("T")


def verdicts_available(n: int, in_flight: int) -> int:
    """Return the number of verdicts that proposal `n` is based on.

    These are all but those of the `in_flight` - 1 candidates before it, even if these already have a verdict. The first
    candidate runs alone, since no proposal can be based on anything before it.
    """
    return 0 if n == 1 else max(1, n - in_flight)


class CandidatePool(Generic[T]):
    """A pool of candidates in evaluation whose results are collected in order.

    ``with CandidatePool(work, last, in_flight) as pipeline: pipeline.result_of(1); pipeline.result_of(2); …``

    `work(n)` runs on a thread of its own as soon as `known(n)` candidates were collected, so at most `in_flight` run at
    once. On exit the running ones are waited for, except after an interrupt.
    """

    def __init__(self, work: Callable[[int], T], last: int, in_flight: int) -> None:
        self._work, self._last, self._in_flight = work, last, in_flight
        self._candidates: dict[int, tuple[threading.Thread, Future[T]]] = {}
        self.closed = False  # True: no further candidate starts
        self._over = threading.Event()

    def __enter__(self) -> "CandidatePool[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            for thread, _future in self._candidates.values():
                thread.join()

    @property
    def is_over(self) -> bool:
        """True when nobody waits for candidates any more: a running one then stops at its next step."""
        return self._over.is_set()

    def close(self) -> None:
        """Let no further candidate start; running ones can still be collected."""
        self.closed = True

    def result_of(self, n: int) -> T | None:
        """Wait for candidate `n` and return its result; None if it never started. Collect candidates in order.

        Raises what its work raised.
        """
        while (
            not self.closed
            and len(self._candidates) < self._last
            and verdicts_available(len(self._candidates) + 1, self._in_flight) < n
        ):
            self._start(len(self._candidates) + 1)
        return self._candidates[n][1].result() if n in self._candidates else None

    def _start(self, n: int) -> None:
        future: Future[T] = Future()
        thread = threading.Thread(target=self._carry_out, args=(n, future), name=f"candidate-{n}", daemon=True)
        self._candidates[n] = thread, future
        thread.start()

    def _carry_out(self, n: int, future: Future[T]) -> None:
        try:
            future.set_result(self._work(n))
        except BaseException as error:  # noqa: BLE001 - it is raised again in result_of
            future.set_exception(error)


class _CandidateDropped(Exception):
    """Raised on the thread of a candidate that the run has ended without."""


class ConcurrentLoop(ExperimentLoop):
    """A loop that evaluates `search.parallel_candidates` candidates at once."""

    def __call__(self) -> int:
        """Run the loop; after Ctrl-C, end what other threads still run."""
        try:
            return super().__call__()
        except KeyboardInterrupt:
            self._context.compute.end()
            raise

    def _generations(self) -> RunStatus:
        """Run all generations, as ExperimentLoop does; return how the run ended.

        Candidates under evaluation still get their verdict when the budget is spent or a plateau is reached. Those
        proposed after a proposer's `stop` are dropped.
        """
        search, last, reason = self._config.search, self._config.max_gen, ""
        with CandidatePool(self._evaluate_early, last, search.parallel_candidates) as self._pipeline:
            for n in range(1, last + 1):
                plateau = plateau_reason(search, to_history(finished_generations(self._journal)[: n - 1]))
                if plateau and not self._pipeline.closed:
                    self._record_stop(n, plateau)
                reason = reason or self._minutes_over(n)
                if plateau or reason:
                    self._pipeline.close()
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
