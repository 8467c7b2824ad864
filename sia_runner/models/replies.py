"""The gateway's responses: its own, and a provider's answer passed on."""

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


class ResponseWriter:
    """The response to one request; it starts with the first bytes of the answer."""

    def __init__(self, request: web.Request, streams: bool) -> None:
        self._request, self._streams = request, streams
        self._stream: web.StreamResponse | None = None
        self._body = b""

    async def emit(self, data: bytes) -> None:
        """Send a piece of a stream, or hold a whole answer until `end`."""
        if not self._streams:
            self._body = data
            return
        stream = self._stream
        if stream is None:
            headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
            stream = self._stream = web.StreamResponse(headers=headers)
            await stream.prepare(self._request)
        await stream.write(data)

    async def end(self) -> web.StreamResponse:
        """Finish the response and return it."""
        if self._stream is None:
            return web.Response(body=self._body, content_type="application/json")
        with suppress(ConnectionError):  # its client is gone
            await self._stream.write_eof()
        return self._stream

    async def fail(self, api: Api, failed: Failed) -> web.StreamResponse:
        """Send an error: a status, or an event where the stream has begun. Client libraries raise for both."""
        if self._stream is None:
            return error_response(api, failed)
        with suppress(ConnectionError):
            await self._stream.write(DIALECTS[api].error_event(_status(failed), failed))
        return await self.end()


def error_response(api: Api, failed: Failed) -> web.Response:
    """Return an error response whose header tells clients not to retry: the gateway has retried already."""
    status = _status(failed)
    return _json(DIALECTS[api].error(status, failed), status, {"x-should-retry": "false"})


def not_served_error(method: str, path: str) -> Failed:
    """Return the error for a path that the gateway does not serve."""
    message = f"{method} {path[:100]} is not served here; the gateway serves {_SERVED}"
    return Failed("bad_request", message, status=404, sent=False)


def models_response(api: Api, hosted: Hosted, name: str) -> web.Response:
    """Return the list with the one model that is served, in a shape that both libraries read."""
    if name not in ("", hosted.model):
        return error_response(api, Failed("bad_request", f"the model served here is {hosted.model}", status=404))
    card = {
        "id": hosted.model,
        "object": "model",
        "created": 0,
        "owned_by": hosted.name,
        "type": "model",
        "display_name": hosted.model,
        "created_at": "1970-01-01T00:00:00Z",
    }
    if name:
        return _json(card)
    return _json(
        {"object": "list", "data": [card], "has_more": False, "first_id": hosted.model, "last_id": hosted.model}
    )


def token_count_response(input_tokens: int) -> web.Response:
    """Return the response to a token count; it is an estimate, since only the provider can count."""
    return _json({"input_tokens": input_tokens})


def _status(failed: Failed) -> int:
    if failed.status is not None and failed.kind in ("auth", "bad_request"):
        return failed.status
    return _STATUS[failed.kind]


def _json(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=dumps(data), status=status, headers=headers, content_type="application/json")
