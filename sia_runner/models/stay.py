"""One sandbox's stay at the gateway: what it spent, what failed, and what is under way."""

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

UNDER_WAY = 64  # calls of one sandbox whose bodies are in memory at the same time; others wait
_UNSENT = 1000  # records of calls that were refused here: a harness may make them at no cost, and fill the disk
_QUESTIONS = 100_000  # ids remembered; a harness may invent as many as it likes
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
    """See protocol.Visit. Written on the gateway's loop, read from any thread."""

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
        """How many calls for `question` came before; bounded, since a harness may invent questions."""
        known = question in self._turns or len(self._turns) < _QUESTIONS
        place = question if known else None
        self._turns[place] += 1
        return self._turns[place] - 1

    def usage(self) -> Usage:
        with self._lock:
            return self._usage

    def faults(self) -> Faults:
        with self._lock:
            return Faults(dict(self._failing), dict(self._untagged))

    def trouble(self) -> Exception | None:
        return self._trouble

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """The current task is a call of this stay, and ends with it."""
        task = asyncio.current_task()
        calls = {task} if task else set()
        self._calls |= calls
        try:
            async with self._slots:
                yield
        finally:
            self._calls -= calls

    def spend(self, usage: Usage) -> None:
        with self._lock:
            self._usage += usage

    def finished(self, record: Record, failed: Failed | None, down: str | None) -> None:
        """A call is over. `down`: why its provider is given up, if it is."""
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
        """Cancel what is under way, and wait until it is settled."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


def _trouble(failed: Failed, down: str | None) -> Exception | None:
    """What no other candidate would escape either."""
    if isinstance(failed.cause, BudgetSpent):
        return failed.cause if failed.cause.scope == "run" else None
    reason = down or (failed.message if failed.kind == "down" else None)
    return ProviderDown(reason) if reason else None


def _fault(record: Record, failed: Failed | None) -> OutcomeKind | None:
    if failed is not None:
        return _FAULTS.get(failed.kind)
    return OutcomeKind.TRUNCATED if record.finish_reason in _CUT else None
