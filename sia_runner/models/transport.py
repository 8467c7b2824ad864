"""litellm's HTTP transport, replaced by ours: one attempt is one request, bounded in size, and read by us too."""

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
    """One attempt's only request, and what came of it below litellm."""

    def __init__(self, line: Line, asked: Asked) -> None:
        self._line, self._asked = line, asked
        self._native: Dialect | None = None  # the API that the provider answers in, where it is one that we read
        self._reader: Reader | None = None
        self._splitter = Splitter()
        self._response: Any = None
        self._failed: Failed | None = None
        self._sent = False
        self._whole = bytearray()

    async def send(self, request: httpx.Request) -> httpx.Response:
        if self._sent:
            raise httpx.ReadError("one attempt is one request", request=request)
        self._sent = True
        self._native = next((api for path, api in _KNOWN.items() if request.url.path.endswith(path)), None)
        self._reader = self._native.reader(self._asked) if self._native and self._asked.stream else None
        body = await request.aread()
        headers = dict(request.headers) | {"accept-encoding": "identity"}
        for name in ("host", "content-length", "connection"):
            headers.pop(name, None)
        try:
            self._response = await self._line.open(request.method, str(request.url), headers, body)
        except Failed as failed:
            self._failed = failed
            raise httpx.ReadError(failed.message, request=request) from failed
        kept = {name: value for name, value in self._response.headers.items() if name.lower() not in _ENCODINGS}
        return httpx.Response(self._response.status, headers=kept, stream=_Stream(self), request=request)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, on its way to litellm, followed by our own reader."""
        try:
            async for piece in pieces(self._response):
                if self._reader is not None and self._response.status < 400:
                    for one in self._splitter.feed(piece):
                        self._reader.take(one)
                else:
                    self._whole += piece
                yield piece
        except Failed as failed:
            self._failed = failed
            raise
        finally:
            await self.close()

    async def close(self) -> None:
        if self._response is not None:
            self._response.close()

    def failure(self, error: Exception) -> Failed:
        """Why litellm failed: what we saw ourselves, or else what it says."""
        if self._failed is not None:
            return self._failed
        said = " ".join(str(error).split())[:500]
        if not self._sent:
            return Failed("bad_request", f"this request cannot be translated: {said}", status=400, sent=False)
        if self._response is not None and self._response.status >= 400:
            return error_in(self._response.status, self._response.headers, bytes(self._whole[: 64 << 10]))
        return Failed("malformed", f"the provider's answer cannot be translated: {said}")

    def witness(self) -> None:
        """Raises Failed where the provider's own answer is none, however well litellm mended it."""
        if self._native is None or self._response is None:
            return
        if self._reader is not None:
            self._reader.finish()
        else:
            self._native.read(loads(bytes(self._whole)))


class Transport(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        once = CURRENT.get()
        if once is None:
            raise httpx.ReadError("litellm may send nothing by itself", request=request)
        return await once.send(request)


CURRENT: ContextVar[Once | None] = ContextVar("attempt", default=None)


class _Stream(httpx.AsyncByteStream):
    def __init__(self, once: Once) -> None:
        self._once = once

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._once.pieces():
            yield piece

    async def aclose(self) -> None:
        await self._once.close()
