"""The gateway's own answers, and how a provider's are sent on."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web

from sia_runner.models.endpoints import DIALECTS
from sia_runner.models.failures import Failed, Kind
from sia_runner.models.wire import Api, dumps
from sia_runner.schema.provider import Hosted

_SERVED = "POST /v1/chat/completions, POST /v1/messages, POST /v1/messages/count_tokens and GET /v1/models"
_STATUS: Mapping[Kind, int] = {
    "rate_limited": 429,
    "timeout": 504,
    "unreachable": 502,
    "auth": 401,
    "bad_request": 400,
    "malformed": 502,
    "too_large": 502,
    "budget": 402,
    "down": 503,
    "cancelled": 499,
}


class Sending:
    """The response to one request; it begins with the first bytes that there are."""

    def __init__(self, request: web.Request, streams: bool) -> None:
        self._request, self._streams = request, streams
        self._stream: web.StreamResponse | None = None
        self._whole = b""

    async def emit(self, data: bytes) -> None:
        if not self._streams:
            self._whole = data
            return
        stream = self._stream
        if stream is None:
            headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
            stream = self._stream = web.StreamResponse(headers=headers)
            await stream.prepare(self._request)
        await stream.write(data)

    async def end(self) -> web.StreamResponse:
        if self._stream is None:
            return web.Response(body=self._whole, content_type="application/json")
        with suppress(ConnectionError):  # its client is gone
            await self._stream.write_eof()
        return self._stream

    async def fail(self, api: Api, failed: Failed) -> web.StreamResponse:
        """A status, or an event where the stream has begun: a client's library raises its usual error for both."""
        if self._stream is None:
            return error(api, failed)
        with suppress(ConnectionError):
            await self._stream.write(DIALECTS[api].error_event(_status(failed), failed))
        return await self.end()


def error(api: Api, failed: Failed) -> web.Response:
    """The clients would try again what we tried often enough: the header tells them not to."""
    status = _status(failed)
    return _json(DIALECTS[api].error(status, failed), status, {"x-should-retry": "false"})


def not_served(method: str, path: str) -> Failed:
    message = f"{method} {path[:100]} is not served here; the gateway serves {_SERVED}"
    return Failed("bad_request", message, status=404, sent=False)


def models(api: Api, hosted: Hosted, name: str) -> web.Response:
    """The one model that is served, in a shape that both libraries read."""
    if name not in ("", hosted.model):
        return error(api, Failed("bad_request", f"the model served here is {hosted.model}", status=404))
    one = {
        "id": hosted.model,
        "object": "model",
        "created": 0,
        "owned_by": hosted.name,
        "type": "model",
        "display_name": hosted.model,
        "created_at": "1970-01-01T00:00:00Z",
    }
    if name:
        return _json(one)
    return _json(
        {"object": "list", "data": [one], "has_more": False, "first_id": hosted.model, "last_id": hosted.model}
    )


def counted(tokens: int) -> web.Response:
    """An estimate: only the provider knows."""
    return _json({"input_tokens": tokens})


def _status(failed: Failed) -> int:
    if failed.status is not None and failed.kind in ("auth", "bad_request"):
        return failed.status
    return _STATUS[failed.kind]


def _json(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=dumps(data), status=status, headers=headers, content_type="application/json")
