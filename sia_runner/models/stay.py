"""A harness's session at the gateway: its spending, its failed calls, and its calls under way."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from sia_runner.models.cache import Cache
from sia_runner.models.failures import Failed, Kind
from sia_runner.models.protocol import BudgetSpent, Grant, ProviderDown
from sia_runner.models.trajectories import Record, append
from sia_runner.records import Door, Faults, OutcomeKind, Usage

UNDER_WAY = 64  # concurrent calls of one sandbox, whose bodies are in memory; others wait
_UNSENT = 1000  # records of refused calls, which cost a harness nothing and could fill the disk
_QUESTIONS = 100_000  # ids to remember; a harness may invent any number
_FAULTS: Mapping[Kind, OutcomeKind] = {
    "rate_limited": OutcomeKind.RATE_LIMITED,
    "timeout": OutcomeKind.RATE_LIMITED,
    "unreachable": OutcomeKind.RATE_LIMITED,
    "malformed": OutcomeKind.RATE_LIMITED,
    "auth": OutcomeKind.RATE_LIMITED,
    "down": OutcomeKind.RATE_LIMITED,
    "budget": OutcomeKind.BUDGET,
}
_CUT = ("length", "max_tokens")  # finish reasons


class Stay:
    """Implements `ModelSession`. Written on the gateway's loop, read from any thread."""

    def __init__(self, grant: Grant, door: Door, cache: Cache | None) -> None:
        self.grant = grant
        self.door = door
        self.cache = cache
        self._slots = asyncio.Semaphore(UNDER_WAY)
        self._calls: set[asyncio.Task[object]] = set()
        self._lock = threading.Lock()
        self._usage = Usage()
        self._unsent = 0
        self._failing: dict[str, OutcomeKind] = {}
        self._untagged: Counter[OutcomeKind] = Counter()
        self._trouble: Exception | None = None
        self._turns: Counter[str | None] = Counter()

    def turn(self, question: str | None) -> int:
        """Return the number of earlier calls for `question`; bounded, since a harness may invent questions."""
        tracked = question in self._turns or len(self._turns) < _QUESTIONS
        key = question if tracked else None
        self._turns[key] += 1
        return self._turns[key] - 1

    def usage(self) -> Usage:
        """Return the spending so far."""
        with self._lock:
            return self._usage

    def faults(self) -> Faults:
        """Return the failed calls, by question and untagged."""
        with self._lock:
            return Faults(dict(self._failing), dict(self._untagged))

    def trouble(self) -> Exception | None:
        """Return the error that no other candidate would escape either; None where there is none."""
        return self._trouble

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Register the current task as a call of this session, which ends with it."""
        task = asyncio.current_task()
        calls = {task} if task else set()
        self._calls |= calls
        try:
            async with self._slots:
                yield
        finally:
            self._calls -= calls

    def spend(self, usage: Usage) -> None:
        """Add to the session's usage."""
        with self._lock:
            self._usage += usage

    def finished(self, record: Record, failed: Failed | None, down: str | None) -> None:
        """Record a finished call. `down`: the reason why its provider is given up, if it is."""
        kind = _fault(record, failed)
        with self._lock:
            if failed is None or failed.kind != "cancelled":
                self._note(record.question, kind)
        if failed is not None:
            self._trouble = self._trouble or _trouble(failed, down)
        self._unsent += record.attempts == 0 and not record.cached
        if self._unsent <= _UNSENT or record.attempts:
            self._write(record)

    def _write(self, record: Record) -> None:
        try:
            append(self.grant.trajectories, record)
        except OSError as error:
            self._trouble = ProviderDown(f"{self.grant.trajectories} cannot be written: {error.strerror or error}")

    def _note(self, question: str | None, kind: OutcomeKind | None) -> None:
        if question is None:
            if kind is not None:
                self._untagged[kind] += 1
        elif kind is None:
            self._failing.pop(question, None)
        elif question in self._failing or len(self._failing) < _QUESTIONS:
            self._failing[question] = kind
        else:
            self._untagged[kind] += 1

    async def end(self) -> None:
        """Cancel the calls under way, and wait until they are settled."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


def _trouble(failed: Failed, down: str | None) -> Exception | None:
    """Return the error that no other candidate would escape either."""
    if isinstance(failed.cause, BudgetSpent):
        return failed.cause if failed.cause.scope == "run" else None
    reason = down or (failed.message if failed.kind == "down" else None)
    return ProviderDown(reason) if reason else None


def _fault(record: Record, failed: Failed | None) -> OutcomeKind | None:
    if failed is not None:
        return _FAULTS.get(failed.kind)
    return OutcomeKind.TRUNCATED if record.finish_reason in _CUT else None
