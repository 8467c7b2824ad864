"""A dead provider is found out once, not once per question."""

import asyncio
import contextlib

from sia_runner.models.failures import Failed, Kind

CONSECUTIVE = 5  # failed calls, each with all its attempts, and no success between them
_COUNTED: frozenset[Kind] = frozenset({"rate_limited", "timeout", "unreachable", "malformed"})
_HOPELESS = (401, 402)  # a key that is refused stays refused
_UNLESS_PROVEN = (403, 404)  # also said about single requests, by a provider that has answered others


class Breaker:
    """Open for good once it opened: the run stops and is resumed when the provider is back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reason: str | None = None  # one line; None: closed
        self._failed = 0
        self._proven = False
        self._opened = asyncio.Event()

    def check(self) -> None:
        if self.reason is not None:
            raise Failed("down", self.reason, sent=False)

    def succeeded(self) -> None:
        self._failed = 0
        self._proven = True

    def failed(self, failed: Failed) -> None:
        """A call failed, all its attempts included."""
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
        """Wait between two attempts, not longer than there is hope."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._opened.wait()
        self.check()

    def _open(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        self._opened.set()
