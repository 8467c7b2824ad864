"""Requests to an endpoint that speaks the client's own API: passed through unchanged."""

from collections.abc import AsyncIterator

from sia_runner.models.failures import Failed
from sia_runner.models.line import Line, error_of, pieces
from sia_runner.models.wire import Asked
from sia_runner.schema.provider import Hosted

_PATHS = {"openai": "/chat/completions", "anthropic": "/messages"}
_ANTHROPIC_VERSION = "2023-06-01"


class Forward:
    """Passes requests through to an endpoint that speaks the client's API."""

    def __init__(self, hosted: Hosted, key: str | None, client: Line) -> None:
        self._url = (hosted.base_url or "").rstrip("/") + _PATHS[hosted.api]
        self._client = client
        self._headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "sia-runner"}
        if hosted.api == "anthropic":
            self._headers |= {"x-api-key": key} if key else {}
        elif key:
            self._headers["authorization"] = f"Bearer {key}"
        self._headers |= hosted.headers

    async def ready(self) -> None:
        """Do nothing: there is nothing to load."""

    async def pieces(self, request: Asked) -> AsyncIterator[bytes]:
        """Yield the bytes of the answer: the whole JSON, or a stream of events. Raises CallError."""
        headers = {**request.headers, **self._headers}
        if request.api == "anthropic":
            headers.setdefault("anthropic-version", _ANTHROPIC_VERSION)
        response = await self._client.open("POST", self._url, headers, request.raw)
        try:
            if response.status >= 400:
                raise await error_of(response)
            if response.status != 200:
                raise Failed("malformed", f"the provider answered with status {response.status}", final=True)
            async for piece in pieces(response):
                yield piece
        finally:
            response.close()  # does nothing if the body was read to its end
