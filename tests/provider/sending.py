"""How each reaction of a script goes over the wire."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType

from aiohttp import web

from tests.provider.answers import (
    Answer,
    Endless,
    Hang,
    Huge,
    Malformed,
    Reaction,
    Request,
    Reset,
    Spent,
    Status,
    Truncated,
)

BYTES_PER_TOKEN = 4
PIECE = 64 << 10  # bytes of one write of a long text
NOTHING = Spent(1, 1, 0)  # what is reported along with an answer that never arrives whole


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request being answered. `answered` is told the tokens just before the last bytes go out; what it returns
    undoes that, for a client that had gone meanwhile."""

    http: web.Request
    request: Request
    api: ModuleType  # openai_api or anthropic_api
    answered: Callable[[Spent], Callable[[], None]]

    @property
    def streams(self) -> bool:
        return bool(self.request.body.get("stream"))


async def send(ex: Exchange, reaction: Reaction) -> web.StreamResponse:  # noqa: PLR0911 - one line a reaction
    match reaction:
        case Answer():
            return await _answer(ex, reaction)
        case Status():
            await asyncio.sleep(reaction.delay)
            body = ex.api.error(reaction.code, reaction.message)
            return web.Response(
                status=reaction.code, headers=reaction.headers, body=body, content_type="application/json"
            )
        case Hang():
            await asyncio.sleep(reaction.seconds)
            return reset(ex.http)
        case Reset():
            return await _reset(ex, reaction)
        case Truncated():
            return await _truncated(ex)
        case Malformed():
            streams = ex.streams and not reaction.whole
            body = f"data: {reaction.body}\n\n" if streams else reaction.body
            return web.Response(text=body, content_type="text/event-stream" if streams else "application/json")
        case Endless():
            return await _long(ex, _repeated(None, 256, reaction.pause), NOTHING)
        case Huge():
            spent = spent_by(ex.request, Answer(output_tokens=reaction.size // BYTES_PER_TOKEN))
            return await _long(ex, _repeated(reaction.size, PIECE, 0), spent)


def spent_by(request: Request, answer: Answer) -> Spent:
    said = len(answer.text.encode()) + sum(len(str(given)) for _, given in answer.tool_calls)
    used = request.size // BYTES_PER_TOKEN + 1 if answer.input_tokens is None else answer.input_tokens
    made = said // BYTES_PER_TOKEN + 1 if answer.output_tokens is None else answer.output_tokens
    return Spent(used, made, answer.cached_tokens)


def within_limit(answer: Answer, limit: int | None) -> Answer:
    if limit is None or answer.output_tokens is not None or len(answer.text.encode()) <= limit * BYTES_PER_TOKEN:
        return answer
    cut = answer.text.encode()[: (limit - 1) * BYTES_PER_TOKEN].decode(errors="ignore")
    return replace(answer, text=cut, finish_reason="length")


def pieces(text: str, count: int) -> Iterator[str]:
    size = max(1, -(-len(text) // max(1, count)))
    return (text[start : start + size] for start in range(0, len(text), size))


async def _answer(ex: Exchange, answer: Answer) -> web.StreamResponse:
    answer = within_limit(answer, ex.api.limit(ex.request.body))
    spent = spent_by(ex.request, answer)
    if answer.delay:
        await asyncio.sleep(answer.delay)
    if _gone(ex.http):
        raise ConnectionResetError
    if not ex.streams:
        body = ex.api.whole(ex.request, answer, spent)
        ex.answered(spent)
        return web.Response(body=body, content_type="application/json")
    response = await _stream(ex)
    for part in ex.api.opening(ex.request, spent):
        await response.write(part)
    for text in pieces(answer.reasoning, answer.chunks):
        await response.write(ex.api.event(ex.request, {"reasoning_content": text}))
    for text in pieces(answer.text, answer.chunks):
        await response.write(ex.api.piece(ex.request, text))
        if answer.pause:
            await asyncio.sleep(answer.pause)
    await _finish(ex, response, answer, spent)
    return response


async def _finish(ex: Exchange, response: web.StreamResponse, answer: Answer, spent: Spent) -> None:
    undo = ex.answered(spent)
    try:
        await response.write(b"".join(ex.api.closing(ex.request, answer, spent)))
        await response.write_eof()
    except ConnectionError:
        undo()
        raise


async def _reset(ex: Exchange, reaction: Reset) -> web.StreamResponse:
    if ex.streams and reaction.after:
        response = await _stream(ex)
        for part in ex.api.opening(ex.request, NOTHING):
            await response.write(part)
        for _ in range(reaction.after):
            await response.write(ex.api.piece(ex.request, "so far "))
        await asyncio.sleep(0.05)  # what was written is read before the reset, which would discard it
    return reset(ex.http)


async def _truncated(ex: Exchange) -> web.StreamResponse:
    answer = Answer("This text is cut somewhere.")
    if not ex.streams:
        body = ex.api.whole(ex.request, answer, NOTHING)
        return web.Response(body=body[: len(body) // 2], content_type="application/json")
    response = await _stream(ex)
    for part in ex.api.opening(ex.request, NOTHING):
        await response.write(part)
    part = ex.api.piece(ex.request, answer.text)
    await response.write(part[: len(part) // 2])
    return response


async def _long(ex: Exchange, texts: AsyncIterator[str], spent: Spent) -> web.StreamResponse:
    """Text piece by piece, inside one JSON string where the client did not ask for a stream."""
    if ex.streams:
        response = await _stream(ex)
        for part in ex.api.opening(ex.request, spent):
            await response.write(part)
        async for text in texts:
            await response.write(ex.api.piece(ex.request, text))
        await _finish(ex, response, Answer(), spent)
        return response
    before, after = ex.api.whole(ex.request, Answer("<here>"), spent).split(b"<here>")
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(ex.http)
    await response.write(before)
    async for text in texts:
        await response.write(text.encode())
    ex.answered(spent)
    await response.write(after)
    return response


async def _repeated(size: int | None, piece: int, pause: float) -> AsyncIterator[str]:
    sent = 0
    while size is None or sent < size:
        length = piece if size is None else min(piece, size - sent)
        yield "a" * length
        sent += length
        if pause:
            await asyncio.sleep(pause)


async def _stream(ex: Exchange) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(ex.http)
    return response


def _gone(http: web.Request) -> bool:
    return http.transport is None or http.transport.is_closing()


def reset(http: web.Request) -> web.StreamResponse:
    """A closed socket that lingers for zero seconds sends RST instead of FIN."""
    if http.transport is not None:
        sock = http.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        http.transport.abort()
    raise ConnectionResetError


def to_json(data: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=json.dumps(data).encode(), content_type="application/json")
