"""One model call, a harness's or the runner's own: its attempts, each reserved before it is sent and settled after."""

import asyncio
import json
import logging
import random
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass

from sia_runner.gateway.backends import AnswerBuffer, Emit, Endpoint, PassThroughBackend
from sia_runner.gateway.ledger import Reservation, RunLedger
from sia_runner.gateway.session import CallRecord, GatewaySession, TokenUsage
from sia_runner.records import ModelReply, ToolCall, Usage
from sia_runner.text import one_line
from sia_runner.wire.dialects import DIALECTS
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import BudgetFullyReserved, BudgetSpent, ModelsError, ProviderDown
from sia_runner.wire.requests import AnswerSummary, Api, Body, ModelRequest, Objects, estimate_tokens, token_bound

_LOG = logging.getLogger(__name__)
_RANDOM = random.Random()  # not the shared generator, which other code may seed
_FIRST_PAUSE = 1.0  # seconds; doubles with each attempt; the actual pause is a random part of it
_BUDGET_POLL = 1.0  # seconds; a settled call wakes earlier
# Fields of an answer's message that the next request repeats: without their thinking, providers refuse tool calls.
_REPEATED = ("role", "content", "tool_calls", "thinking_blocks", "reasoning_content")
_FINISH = {"length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter"}
_CUT_PROMPT = "seems, by its token counts, to cut prompts: raise its context (Ollama: OLLAMA_CONTEXT_LENGTH or num_ctx)"
_MAX_BYTES_PER_TOKEN = 8  # text has three to five


@dataclass(slots=True)
class _Call:
    session: GatewaySession
    endpoint: Endpoint
    request: ModelRequest
    emit: Emit
    record: CallRecord


def _new_record(session: GatewaySession, api: Api, body: Body, asked_model: str, question: str | None) -> CallRecord:
    grant, call, at = session.grant, uuid.uuid4().hex, round(time.time(), 3)
    labels = (grant.candidate, grant.purpose, question, grant.sample)
    return CallRecord(call, at, *labels, api, asked_model, request=body)


def record_refusal(session: GatewaySession, api: Api, body: Body, question: str | None, failed: CallError) -> None:
    """Record a request that was refused before it became a call."""
    record = _new_record(session, api, body, str(body.get("model", ""))[:200], question)
    record.error = {"kind": failed.kind, "message": failed.message}
    session.finished(record, failed, None)


class CallRunner:
    """Carries calls out, on the gateway's event loop."""

    def __init__(self, ledger: RunLedger) -> None:
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._settled = asyncio.Event()
        self._told: set[str] = set()
        ledger.on_settled(self._wake)

    async def serve(self, session: GatewaySession, endpoint: Endpoint, request: ModelRequest, emit: Emit) -> None:
        """Answer one request through `emit`. Raises CallError when all attempts failed."""
        record = _new_record(session, request.api, request.body, request.asked_model, request.question)
        call = _Call(session, endpoint, request, emit, record)
        began = time.monotonic()
        failed: CallError | None = None
        try:
            buffer, summary = await self._answer(call)
            record.sampled, record.model, record.finish_reason = summary.sampled, summary.model, summary.finish_reason
            reasoning = {"reasoning": summary.reasoning} if summary.reasoning else {}
            record.response = reasoning | {"text": summary.text, "tool_calls": summary.tool_calls}
        except CallError as error:
            failed = error
            raise
        except Exception as error:
            failed = endpoint.clean(CallError("unreachable", f"the gateway failed: {error!r}"))
            raise failed from error
        except asyncio.CancelledError:
            failed = CallError("cancelled", "cancelled by the client, or at the end of its sandbox")
            raise
        finally:
            record.seconds = round(time.monotonic() - began, 4)
            if failed is not None:
                record.error = {"kind": failed.kind, "message": failed.message}
            session.finished(record, failed, endpoint.breaker.reason)
        with suppress(CallError):  # the call is answered and paid: a client that left does not make it fail
            await buffer.flush()

    async def _answer(self, call: _Call) -> tuple[AnswerBuffer, AnswerSummary]:
        cache = call.session.cache
        if cache is None:
            return await self._call(call, keep=False)
        path = cache.path_of(call.request, call.endpoint.hosted)
        stored = cache.get(path)
        if stored is not None:
            with suppress(CallError):  # an unreadable or incomplete entry is replaced by a new call
                buffer = AnswerBuffer(call.request, call.emit, keep=False)
                summary = buffer.replay(stored)
                call.record.cached, call.record.usage = True, _count_usage(call.request, summary)
                return buffer, summary
        buffer, summary = await self._call(call, keep=True)
        cache.put(path, buffer.content())
        return buffer, summary

    async def _call(self, call: _Call, *, keep: bool) -> tuple[AnswerBuffer, AnswerSummary]:
        hosted, breaker, backend = call.endpoint.hosted, call.endpoint.breaker, call.endpoint.backends[call.request.api]
        try:
            await backend.ready()
            while True:
                buffer = AnswerBuffer(call.request, call.emit, keep=keep)
                try:
                    summary = await self._attempt(call, buffer)
                    break
                except CallError as failed:
                    if isinstance(backend, PassThroughBackend) and backend.adapt(call.request, failed):
                        continue
                    attempts = call.record.attempts
                    pause = _pause(failed, attempts, hosted.max_wait_seconds)
                    if not failed.transient or buffer.emitted or attempts >= hosted.attempts or pause is None:
                        raise
                await breaker.pause(pause)
        except CallError as failed:
            breaker.failed(call.endpoint.clean(failed))
            raise
        finally:
            if call.request.notice:
                self._notice(call)
        breaker.succeeded()
        return buffer, summary

    async def _attempt(self, call: _Call, buffer: AnswerBuffer) -> AnswerSummary:
        backend, seconds = call.endpoint.backends[call.request.api], call.endpoint.hosted.timeout
        async with call.endpoint.slots:
            call.endpoint.breaker.check()
            reservation = await self._reserve(call)
            call.record.attempts += 1
            try:
                async with asyncio.timeout(seconds):
                    summary = await backend.send(call.request, buffer)
            except (CallError, TimeoutError) as error:
                late = CallError("timeout", f"no complete answer within {seconds:g} s")
                if buffer.emitting:
                    late = CallError("cancelled", f"the client did not read its answer within {seconds:g} s")
                failed = error if isinstance(error, CallError) else late
                _settle_failed(call, reservation, failed, buffer)
                raise call.endpoint.clean(failed) from None
            except BaseException:
                _settle_failed(call, reservation, CallError("cancelled", ""), buffer)
                raise
            usage = call.record.usage = _count_usage(call.request, summary)
            if _is_cut(call.request, summary):
                call.request.notice += f"{'; ' if call.request.notice else ''}{_CUT_PROMPT}"
            call.record.usd = reservation.settle(usage.input, usage.output, usage.cached, summary.written_tokens)
            call.session.spend(Usage(call.record.usd or 0.0, usage.input + usage.output, 1))
            return summary

    async def _reserve(self, call: _Call) -> Reservation:
        input_bound, output_bound = token_bound(call.request.raw), call.request.output_tokens
        while True:
            settled = self._settled
            try:
                return self._ledger.reserve(call.session.grant, input_tokens=input_bound, output_tokens=output_bound)
            except BudgetFullyReserved:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_BUDGET_POLL):
                        await settled.wait()
            except BudgetSpent as error:
                raise CallError("budget", str(error), sent=False, cause=error) from None
            except (ModelsError, OSError, RuntimeError) as error:
                raise CallError("down", f"the ledger cannot reserve budget: {error}", sent=False) from None

    def _notice(self, call: _Call) -> None:
        """Record what the provider does to the request; tell the user once, on stderr, which in a job is its log."""
        call.record.notice = one_line(call.request.notice, 500)
        line = one_line(f"provider {call.endpoint.hosted.name}: {call.request.notice}", 500)
        if line not in self._told:
            self._told.add(line)
            _LOG.warning("%s", line)

    def _wake(self) -> None:
        """Wake the calls that wait for budget. Safe from any thread."""

        def pulse() -> None:
            self._settled.set()
            self._settled = asyncio.Event()

        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(pulse)

    async def chat(
        self, session: GatewaySession, endpoint: Endpoint, messages: Objects, tools: Objects, settings: Body
    ) -> ModelReply:
        """Make one call and return the reply; see `GatewayService.chat`."""
        chunks: list[bytes] = []

        async def emit(data: bytes) -> None:
            chunks.append(data)

        options = {name: value for name, value in settings.items() if value is not None}
        body = {**options, "messages": list(messages), "stream": False} | ({"tools": list(tools)} if tools else {})
        try:
            request = DIALECTS["openai"].prepare(body, endpoint.hosted)
            request.question = session.grant.question or request.question
            await self.serve(session, endpoint, request, emit)
        except CallError as failed:
            raise _caller_error(failed, endpoint, begun=any(m.get("role") == "assistant" for m in messages)) from None
        # JSON may escape lone surrogates, but no file can hold them
        escaped = json.dumps(json.loads(b"".join(chunks)), ensure_ascii=False)
        answer = json.loads(escaped.encode(errors="replace"))
        summary, original = DIALECTS["openai"].read(answer), answer["choices"][0]["message"]
        message = {name: original[name] for name in _REPEATED if original.get(name) is not None}
        message |= {"role": "assistant"} | ({} if "content" in message else {"content": ""})
        calls = tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in summary.tool_calls)
        finish = _FINISH.get(summary.finish_reason or "", "tool_calls" if calls else "stop")
        return ModelReply(summary.text, calls, finish, message, session.usage())


def _count_usage(request: ModelRequest, summary: AnswerSummary) -> TokenUsage:
    """Return the provider's counts, or an estimate where it gives none."""
    if summary.input_tokens is not None and summary.output_tokens is not None:
        return TokenUsage(summary.input_tokens, summary.output_tokens, summary.cached_tokens)
    text = summary.text + "".join(call["name"] + call["arguments"] for call in summary.tool_calls)
    return TokenUsage(estimate_tokens(request.raw.decode()), estimate_tokens(text), estimated=True)


def _is_cut(request: ModelRequest, summary: AnswerSummary) -> bool:
    """Tell whether the provider read only a part of a long text."""
    has_pictures, is_short = b"data:" in request.raw, len(request.raw) < 16 << 10
    if summary.sampled or has_pictures or is_short or not summary.input_tokens:
        return False
    return len(request.raw) > _MAX_BYTES_PER_TOKEN * summary.input_tokens


def _settle_failed(call: _Call, reservation: Reservation, failed: CallError, buffer: AnswerBuffer) -> None:
    """Settle a failed attempt. An error status costs nothing; anything else may have been charged for."""
    if failed.status is not None and failed.sent and not buffer.emitted:
        reservation.settle(0, 0)
        call.session.spend(Usage(calls=1))
        return
    reservation.unanswered(may_be_charged=failed.sent)
    if failed.sent:
        call.session.spend(Usage(tokens=token_bound(call.request.raw) + call.request.output_tokens, calls=1))


def _pause(failed: CallError, attempt: int, patience: float) -> float | None:
    """Return the seconds until the next attempt; None where the provider asks for more than `patience` seconds."""
    if failed.retry_after is not None:
        spread = _RANDOM.uniform(0, 0.1 * failed.retry_after)
        return min(failed.retry_after + spread, patience) if failed.retry_after <= patience else None
    return _RANDOM.uniform(0, min(patience, _FIRST_PAUSE * 2 ** (attempt - 1)))


def _caller_error(failed: CallError, endpoint: Endpoint, *, begun: bool) -> Exception:
    """Return what a proposer's call raises. A first request would be refused in every generation."""
    if isinstance(failed.cause, BudgetSpent):
        return failed.cause
    name = endpoint.hosted.name
    if endpoint.breaker.reason is not None:
        return ProviderDown(endpoint.breaker.reason)
    line = " ".join(failed.message.split())
    if failed.kind == "bad_request" and (begun or failed.concerns_content):
        return ModelsError(f"provider {name} refuses the request: {line}")
    refuses = " refuses the request" if failed.kind == "bad_request" else ""
    return ProviderDown(f"provider {name}{refuses}: {line}")
