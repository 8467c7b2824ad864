"""The attempts of one model call, with pauses between them. Each is reserved before it is sent and settled after."""

import asyncio
import random
import time
from contextlib import suppress

from sia_runner.models.endpoints import DIALECTS, Endpoint
from sia_runner.models.failures import Failed
from sia_runner.models.intake import Emit, Intake
from sia_runner.models.ledger import Reservation, RunLedger
from sia_runner.models.protocol import BudgetSpent, Crowded, ModelsError
from sia_runner.models.settling import Call, counted, lost, note, record_of, settle
from sia_runner.models.stay import Stay
from sia_runner.models.tokens import bound
from sia_runner.models.wire import Asked, Summary

_RANDOM = random.Random()  # not the shared generator, which other code may seed
_FIRST_PAUSE = 1.0  # seconds; doubles with each attempt; the actual pause is a random part of it
_BUDGET_POLL = 1.0  # seconds; a settled call wakes earlier


class Desk:
    """Carries calls out, on the gateway's event loop."""

    def __init__(self, ledger: RunLedger) -> None:
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._settled = asyncio.Event()
        self._waiting = 0
        ledger.on_settled(self._wake)

    async def serve(self, session: Stay, endpoint: Endpoint, request: Asked, emit: Emit) -> None:
        """Answer one request through `emit`. Raises CallError when all attempts failed."""
        call = Call(session, endpoint, request, emit, record_of(session, request))
        began = time.monotonic()
        failed: Failed | None = None
        try:
            buffer, summary = await self._answer(call)
            note(call.record, summary, request.sampled)
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
            session.finished(call.record, failed, endpoint.breaker.reason)
        with suppress(Failed):  # the call is answered and paid: a client that left does not make it fail
            await buffer.flush()

    async def _answer(self, call: Call) -> tuple[Intake, Summary]:
        cache = call.session.cache
        if cache is None:
            return await self._call(call, keep=False)
        path = cache.path_of(call.request, call.endpoint.hosted)
        stored = cache.get(path)
        if stored is not None:
            with suppress(Failed):  # an unreadable cache entry is replaced by a new call
                return await _replay(call, stored)
        buffer, summary = await self._call(call, keep=True)
        cache.put(path, buffer.content())
        return buffer, summary

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
        backend = call.endpoint.backends[call.request.api]
        await backend.ready()
        while True:
            buffer = Intake(DIALECTS[call.request.api], call.request, call.emit, keep=keep)
            try:
                return buffer, await self._attempt(call, buffer)
            except Failed as failed:
                pause = _pause(failed, call.record.attempts, hosted.patience)
                if not failed.transient or buffer.emitted or call.record.attempts >= hosted.attempts or pause is None:
                    raise
            await breaker.pause(pause)

    async def _attempt(self, call: Call, buffer: Intake) -> Summary:
        async with call.endpoint.slots:
            call.endpoint.breaker.check()
            reservation = await self._reserve(call)
            call.record.attempts += 1
            try:
                summary = await _receive(call, buffer)
            except Failed as failed:
                lost(call, reservation, failed, buffer)
                raise
            except BaseException:
                lost(call, reservation, Failed("cancelled", ""), buffer)
                raise
            settle(call, reservation, summary)
            return summary

    async def _reserve(self, call: Call) -> Reservation:
        input_bound, output_bound = bound(call.request.raw), call.request.output_tokens
        while True:
            settled = self._settled
            try:
                return self._ledger.reserve(call.session.grant, input_tokens=input_bound, output_tokens=output_bound)
            except Crowded:
                await self._wait(settled)
            except BudgetSpent as error:
                failed = Failed("budget", str(error), sent=False)
                failed.cause = error
                raise failed from None
            except (ModelsError, OSError, RuntimeError) as error:
                raise Failed("down", f"the ledger cannot reserve budget: {error}", sent=False) from None

    async def _wait(self, settled: asyncio.Event) -> None:
        self._waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_BUDGET_POLL):
                    await settled.wait()
        finally:
            self._waiting -= 1

    def _wake(self) -> None:
        """Wake the calls that wait for budget. Safe from any thread."""
        if self._waiting:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._pulse)

    def _pulse(self) -> None:
        self._settled.set()
        self._settled = asyncio.Event()


async def _receive(call: Call, buffer: Intake) -> Summary:
    """Receive one attempt's answer and pass all but its end on. Raises CallError."""
    backend, seconds = call.endpoint.backends[call.request.api], call.endpoint.hosted.timeout
    source = backend.pieces(call.request)
    try:
        async with asyncio.timeout(seconds):
            async for piece in source:
                await buffer.take(piece)
    except TimeoutError:
        if buffer.emitting:
            raise Failed("cancelled", f"the client did not read its answer within {seconds:g} s") from None
        raise Failed("timeout", f"no complete answer within {seconds:g} s") from None
    finally:
        await source.aclose()  # pyright: ignore[reportAttributeAccessIssue]
    return buffer.finish()


async def _replay(call: Call, stored: bytes) -> tuple[Intake, Summary]:
    chunks: list[bytes] = []

    async def hold(data: bytes) -> None:
        chunks.append(data)

    buffer = Intake(DIALECTS[call.request.api], call.request, hold, keep=False)
    await buffer.take(stored)
    summary = buffer.finish()  # only a complete answer reaches the client
    await buffer.go_on(b"".join(chunks), call.emit)
    call.record.cached = True
    call.record.usage = counted(call.request, summary)
    return buffer, summary


def _pause(failed: Failed, attempt: int, patience: float) -> float | None:
    """Return the seconds until the next attempt; None where the provider asks for more than `patience` seconds."""
    if failed.retry_after is not None:
        spread = _RANDOM.uniform(0, 0.1 * failed.retry_after)
        return min(failed.retry_after + spread, patience) if failed.retry_after <= patience else None
    return _RANDOM.uniform(0, min(patience, _FIRST_PAUSE * 2 ** (attempt - 1)))
