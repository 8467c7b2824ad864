"""Our HTTP transport for litellm: one attempt is one request, bounded in size, whose answer we also read ourselves."""

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import httpx

from sia_runner.gateway.backends import API_PATHS
from sia_runner.gateway.http_client import HttpClient, body_pieces
from sia_runner.wire.dialects import DIALECTS, Dialect, check_is_stream
from sia_runner.wire.failures import CallError, error_of_body
from sia_runner.wire.requests import ModelRequest, SseSplitter, loads

_PER_CONNECTION = ("host", "content-length", "connection")
_ENCODINGS = ("content-encoding", "content-length", "transfer-encoding")


class SingleRequest(httpx.AsyncByteStream):
    """The only request of one attempt, its result below litellm, and the body for litellm."""

    def __init__(self, client: HttpClient, model_request: ModelRequest) -> None:
        self._client, self._model_request = client, model_request
        self._native: Dialect | None = None  # the provider's API, if we can read it
        self._reader = None
        self._splitter = SseSplitter()
        self._response: Any = None
        self._failed: CallError | None = None
        self._sent, self._body = False, bytearray()

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Send the request; refuse a second one."""
        if self._sent:
            raise httpx.ReadError("one attempt is one request", request=request)
        self._sent = True
        self._native = next((DIALECTS[api] for api, path in API_PATHS.items() if request.url.path.endswith(path)), None)
        self._reader = self._native.reader(self._model_request) if self._native and self._model_request.stream else None
        body = await request.aread()
        headers = {name: value for name, value in request.headers.items() if name not in _PER_CONNECTION}
        headers["accept-encoding"] = "identity"
        try:
            url, stream = str(request.url), self._model_request.stream
            self._response = await self._client.open(request.method, url, headers, body, stream=stream)
        except CallError as failed:
            self._failed = failed
            raise httpx.ReadError(failed.message, request=request) from failed
        headers = {name: value for name, value in self._response.headers.items() if name.lower() not in _ENCODINGS}
        return httpx.Response(self._response.status, headers=headers, stream=self, request=request)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in body_pieces(self._response):
                if self._reader is not None and self._response.status < 400:
                    for event in self._splitter.feed(piece):
                        self._reader.take(event)
                else:
                    self._body += piece
                yield piece
        except CallError as failed:
            self._failed = failed
            raise
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the response."""
        if self._response is not None:
            self._response.close()

    def failure(self, error: Exception) -> CallError:
        """Return why litellm failed: the error seen here, or else litellm's message."""
        if self._failed is not None:
            return self._failed
        reason = " ".join(str(error).split())[:500]
        if not self._sent:
            return CallError("bad_request", f"this request cannot be translated: {reason}", status=400, sent=False)
        if self._response is not None and self._response.status >= 400:
            return error_of_body(self._response.status, self._response.headers, bytes(self._body[: 64 << 10]))
        return CallError("malformed", f"the provider's answer cannot be translated: {reason}")

    def check_answer(self) -> None:
        """Raise CallError where the provider's own answer is invalid, even if litellm repaired it."""
        if self._native is None or self._response is None:
            return
        if self._reader is not None:
            check_is_stream(self._native, self._splitter)
            self._reader.finish()
        else:
            self._native.read(loads(bytes(self._body)))


class LitellmTransport(httpx.AsyncBaseTransport):
    """Sends litellm's requests through the current attempt."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request of the current attempt; refuse all others."""
        exchange = CURRENT_REQUEST.get()
        if exchange is None:
            raise httpx.ReadError("litellm may send nothing by itself", request=request)
        return await exchange.send(request)


CURRENT_REQUEST: ContextVar[SingleRequest | None] = ContextVar("attempt", default=None)
