"""One call of a client: attempts with pauses between them, each reserved before and settled after."""

import asyncio
import random
import time
from contextlib import suppress

from sia_runner.models import tokens
from sia_runner.models.endpoints import DIALECTS, Endpoint
from sia_runner.models.failures import Failed
from sia_runner.models.intake import Emit, Intake
from sia_runner.models.ledger import Reservation, RunLedger
from sia_runner.models.protocol import BudgetSpent, Crowded, ModelsError
from sia_runner.models.settling import Call, counted, lost, note, record_of, settle
from sia_runner.models.stay import Stay
from sia_runner.models.wire import Asked, Summary

_DICE = random.Random()  # our own: the common one may be seeded by others
_FIRST_PAUSE = 1.0  # seconds; doubled from attempt to attempt, and a random part of it is waited
_CROWDED_POLL = 1.0  # seconds; a settled call wakes earlier


class Desk:
    """Carries calls out, on the gateway's loop."""

    def __init__(self, ledger: RunLedger) -> None:
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._settled = asyncio.Event()
        self._waiting = 0
        ledger.on_settled(self._wake)

    async def serve(self, stay: Stay, endpoint: Endpoint, asked: Asked, emit: Emit) -> None:
        """The answer goes to `emit`. Raises Failed when all attempts came to nothing."""
        call = Call(stay, endpoint, asked, emit, record_of(stay, asked))
        began = time.monotonic()
        failed: Failed | None = None
        try:
            intake, summary = await self._answer(call)
            note(call.record, summary, asked.sampled)
        except Failed as error:
            failed = error
            raise
        except Exception as error:
            failed = endpoint.clean(Failed("unreachable", f"the gateway failed: {error!r}"))
            raise failed from error
        except asyncio.CancelledError:
            failed = Failed("cancelled", "cancelled by the client, or at the end of its sandbox")
            raise
        finally:
            call.record.seconds = round(time.monotonic() - began, 4)
            if failed is not None:
                call.record.error = {"kind": failed.kind, "message": failed.message}
            stay.finished(call.record, failed, endpoint.breaker.reason)
        with suppress(Failed):  # answered and paid: that its client did not wait is no failure of the call
            await intake.flush()

    async def _answer(self, call: Call) -> tuple[Intake, Summary]:
        cache = call.stay.cache
        if cache is None:
            return await self._call(call, keep=False)
        place = cache.place(call.asked, call.endpoint.hosted)
        stored = cache.get(place)
        if stored is not None:
            with suppress(Failed):  # what cannot be read any more is asked again
                return await _replay(call, stored)
        intake, summary = await self._call(call, keep=True)
        cache.put(place, intake.kept())
        return intake, summary

    async def _call(self, call: Call, *, keep: bool) -> tuple[Intake, Summary]:
        breaker = call.endpoint.breaker
        try:
            answer = await self._attempts(call, keep=keep)
        except Failed as failed:
            breaker.failed(call.endpoint.clean(failed))
            raise
        breaker.succeeded()
        return answer

    async def _attempts(self, call: Call, *, keep: bool) -> tuple[Intake, Summary]:
        hosted, breaker = call.endpoint.hosted, call.endpoint.breaker
        backend = call.endpoint.backends[call.asked.api]
        await backend.ready()
        while True:
            intake = Intake(DIALECTS[call.asked.api], call.asked, call.emit, keep=keep)
            try:
                return intake, await self._attempt(call, intake)
            except Failed as failed:
                pause = _pause(failed, call.record.attempts, hosted.patience)
                if not failed.transient or intake.emitted or call.record.attempts >= hosted.attempts or pause is None:
                    raise
            await breaker.pause(pause)

    async def _attempt(self, call: Call, intake: Intake) -> Summary:
        async with call.endpoint.slots:
            call.endpoint.breaker.check()
            judged = await self._reserve(call)
            call.record.attempts += 1
            try:
                summary = await _received(call, intake)
            except Failed as failed:
                lost(call, judged, failed, intake)
                raise
            except BaseException:
                lost(call, judged, Failed("cancelled", ""), intake)
                raise
            settle(call, judged, summary)
            return summary

    async def _reserve(self, call: Call) -> Reservation:
        needed, made = tokens.bound(call.asked.raw), call.asked.output_tokens
        while True:
            settled = self._settled
            try:
                return self._ledger.reserve(call.stay.grant, input_tokens=needed, output_tokens=made)
            except Crowded:
                await self._wait(settled)
            except BudgetSpent as spent:
                failed = Failed("budget", str(spent), sent=False)
                failed.cause = spent
                raise failed from None
            except (ModelsError, OSError, RuntimeError) as error:
                raise Failed("down", f"the ledger cannot be kept: {error}", sent=False) from None

    async def _wait(self, settled: asyncio.Event) -> None:
        self._waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CROWDED_POLL):
                    await settled.wait()
        finally:
            self._waiting -= 1

    def _wake(self) -> None:
        """From any thread."""
        if self._waiting:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._pulse)

    def _pulse(self) -> None:
        self._settled.set()
        self._settled = asyncio.Event()


async def _received(call: Call, intake: Intake) -> Summary:
    """One attempt's answer, all but its end handed on. Raises Failed."""
    backend, seconds = call.endpoint.backends[call.asked.api], call.endpoint.hosted.timeout
    source = backend.pieces(call.asked)
    try:
        async with asyncio.timeout(seconds):
            async for piece in source:
                await intake.take(piece)
    except TimeoutError:
        if intake.emitting:
            raise Failed("cancelled", f"the client did not read its answer within {seconds:g} s") from None
        raise Failed("timeout", f"no complete answer within {seconds:g} s") from None
    finally:
        await source.aclose()  # pyright: ignore[reportAttributeAccessIssue]
    return intake.finish()


async def _replay(call: Call, stored: bytes) -> tuple[Intake, Summary]:
    held: list[bytes] = []

    async def hold(data: bytes) -> None:
        held.append(data)

    intake = Intake(DIALECTS[call.asked.api], call.asked, hold, keep=False)
    await intake.take(stored)
    summary = intake.finish()  # only what is whole reaches the client
    await intake.go_on(b"".join(held), call.emit)
    call.record.cached = True
    call.record.usage = counted(call.asked, summary)
    return intake, summary


def _pause(failed: Failed, attempt: int, patience: float) -> float | None:
    """Seconds until the next attempt; None where the provider asks for more patience than there is."""
    if failed.retry_after is not None:
        spread = _DICE.uniform(0, 0.1 * failed.retry_after)
        return min(failed.retry_after + spread, patience) if failed.retry_after <= patience else None
    return _DICE.uniform(0, min(patience, _FIRST_PAUSE * 2 ** (attempt - 1)))
