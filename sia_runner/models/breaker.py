"""A circuit breaker, so that a dead provider is detected once and not once per question."""

import asyncio
import contextlib

from sia_runner.models.failures import Failed, Kind

CONSECUTIVE = 5  # failed calls (after all attempts) without a success between them
_COUNTED: frozenset[Kind] = frozenset({"rate_limited", "timeout", "unreachable", "malformed"})
_HOPELESS = (401, 402)  # a refused key stays refused
_UNLESS_PROVEN = (403, 404)  # may concern a single request, if the provider has answered others


class Breaker:
    """Stops calls to a provider that fails. It never closes again: the run stops and is resumed later."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reason: str | None = None  # one line; None: closed
        self._failed = 0
        self._proven = False
        self._opened = asyncio.Event()

    def check(self) -> None:
        """Raise CallError (down) when the breaker is open."""
        if self.reason is not None:
            raise Failed("down", self.reason, sent=False)

    def succeeded(self) -> None:
        """Record an answered call."""
        self._failed = 0
        self._proven = True

    def failed(self, failed: Failed) -> None:
        """Record a call that failed with all its attempts; open the breaker where no later call can succeed."""
        if failed.kind == "down" or self.reason is not None:
            return
        hopeless = failed.status in _HOPELESS or failed.code == "insufficient_quota"
        if hopeless or (failed.status in _UNLESS_PROVEN and not self._proven):
            self._open(f"provider {self.name}: {failed.message}")
        elif failed.kind in _COUNTED or failed.status in _UNLESS_PROVEN:
            self._failed += 1
            if self._failed >= CONSECUTIVE:
                self._open(f"provider {self.name}: {self._failed} calls in a row failed, the last: {failed.message}")

    async def pause(self, seconds: float) -> None:
        """Wait `seconds` between two attempts; stop early and raise CallError (down) if the breaker opens."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._opened.wait()
        self.check()

    def _open(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        self._opened.set()
