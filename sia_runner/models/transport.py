"""Our HTTP transport for litellm: one attempt is one request, bounded in size, whose answer we also read ourselves."""

from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from typing import Any

import httpx

from sia_runner.models.anthropic_wire import Anthropic
from sia_runner.models.failures import Failed
from sia_runner.models.line import Line, error_in, pieces
from sia_runner.models.openai_wire import OpenAI
from sia_runner.models.sse import Splitter
from sia_runner.models.wire import Asked, Dialect, Reader, loads

_KNOWN: Mapping[str, Dialect] = {"/chat/completions": OpenAI(), "/messages": Anthropic()}
_ENCODINGS = ("content-encoding", "content-length", "transfer-encoding")


class Once:
    """The only request of one attempt, and its result below litellm."""

    def __init__(self, client: Line, model_request: Asked) -> None:
        self._client, self._model_request = client, model_request
        self._native: Dialect | None = None  # the provider's API, if we can read it
        self._reader: Reader | None = None
        self._splitter = Splitter()
        self._response: Any = None
        self._failed: Failed | None = None
        self._sent = False
        self._body = bytearray()

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Send the request; refuse a second one."""
        if self._sent:
            raise httpx.ReadError("one attempt is one request", request=request)
        self._sent = True
        self._native = next((api for path, api in _KNOWN.items() if request.url.path.endswith(path)), None)
        self._reader = self._native.reader(self._model_request) if self._native and self._model_request.stream else None
        body = await request.aread()
        headers = dict(request.headers) | {"accept-encoding": "identity"}
        for name in ("host", "content-length", "connection"):
            headers.pop(name, None)
        try:
            self._response = await self._client.open(request.method, str(request.url), headers, body)
        except Failed as failed:
            self._failed = failed
            raise httpx.ReadError(failed.message, request=request) from failed
        answer_headers = {
            name: value for name, value in self._response.headers.items() if name.lower() not in _ENCODINGS
        }
        return httpx.Response(self._response.status, headers=answer_headers, stream=_Stream(self), request=request)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body for litellm, and let our own reader follow it."""
        try:
            async for piece in pieces(self._response):
                if self._reader is not None and self._response.status < 400:
                    for event in self._splitter.feed(piece):
                        self._reader.take(event)
                else:
                    self._body += piece
                yield piece
        except Failed as failed:
            self._failed = failed
            raise
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the response."""
        if self._response is not None:
            self._response.close()

    def failure(self, error: Exception) -> Failed:
        """Return why litellm failed: the error seen here, or else litellm's message."""
        if self._failed is not None:
            return self._failed
        reason = " ".join(str(error).split())[:500]
        if not self._sent:
            return Failed("bad_request", f"this request cannot be translated: {reason}", status=400, sent=False)
        if self._response is not None and self._response.status >= 400:
            return error_in(self._response.status, self._response.headers, bytes(self._body[: 64 << 10]))
        return Failed("malformed", f"the provider's answer cannot be translated: {reason}")

    def check_answer(self) -> None:
        """Raise CallError where the provider's own answer is invalid, even if litellm repaired it."""
        if self._native is None or self._response is None:
            return
        if self._reader is not None:
            self._reader.finish()
        else:
            self._native.read(loads(bytes(self._body)))


class Transport(httpx.AsyncBaseTransport):
    """Sends litellm's requests through the current attempt."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request of the current attempt; refuse all others."""
        exchange = CURRENT.get()
        if exchange is None:
            raise httpx.ReadError("litellm may send nothing by itself", request=request)
        return await exchange.send(request)


CURRENT: ContextVar[Once | None] = ContextVar("attempt", default=None)


class _Stream(httpx.AsyncByteStream):
    def __init__(self, exchange: Once) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._exchange.pieces():
            yield piece

    async def aclose(self) -> None:
        await self._exchange.close()
