"""The gateway's HTTP server: OpenAI and Anthropic clients of a harness call it on a Unix socket."""

import asyncio
import json
import logging
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from sia_runner.config.components import HostedProvider
from sia_runner.gateway.backends import API_PATHS, Endpoint
from sia_runner.gateway.calls import CallRunner, record_refusal
from sia_runner.gateway.session import AnswerCache, GatewaySession, HostService
from sia_runner.records import GatewayAddress
from sia_runner.wire.dialects import DIALECTS
from sia_runner.wire.failures import CallError, FailureKind
from sia_runner.wire.grants import Grant, ModelKey
from sia_runner.wire.requests import Api, Body, bad_request, dumps, estimate_tokens, short_text, sse_event

_SERVED_TEXT = "POST /v1/chat/completions, POST /v1/messages, POST /v1/messages/count_tokens and GET /v1/models"
_STATUS: Mapping[FailureKind, int] = {
    "rate_limited": 429,
    "timeout": 504,
    **dict.fromkeys(("unreachable", "malformed", "too_large"), 502),
    "auth": 401,
    "bad_request": 400,
    "budget": 402,
    "down": 503,
    "cancelled": 499,
}
MAX_REQUEST_BYTES = 8 << 20  # bytes
_MAX_CONNECTIONS = 512  # concurrent; a harness must not use up the runner's file descriptors
_MAX_SOCKET_PATH_BYTES = 107  # longest address of a Unix socket, in bytes
_PASSED_HEADERS = ("anthropic-version", "anthropic-beta")  # headers that are part of a request
_API_BY_PATH: Mapping[str, Api] = {path: api for api, path in API_PATHS.items()}
_LOG = logging.getLogger(__name__)  # invalid HTTP from a harness must not reach the user's terminal
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False
_COUNT_PATH = "/messages/count_tokens"
_SERVICE_PATH = "/sia/"  # what the host does for the sandbox beside models


class _ResponseWriter:
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
        if self._stream is None:
            return web.Response(body=self._body, content_type="application/json")
        with suppress(ConnectionError):  # its client is gone
            await self._stream.write_eof()
        return self._stream

    async def fail(self, api: Api, failed: CallError) -> web.StreamResponse:
        """Send an error: a status, or an event where the stream has begun. Client libraries raise for both."""
        if self._stream is None:
            return _error_response(api, failed)
        with suppress(ConnectionError):
            error = dumps(DIALECTS[api].error(_status_of(failed), failed))
            await self._stream.write(sse_event(error, "error" if api == "anthropic" else None))
        return await self.end()


def _error_response(api: Api, failed: CallError) -> web.Response:
    status = _status_of(failed)
    headers = {"x-should-retry": "false"}  # the gateway has retried already
    return _json_response(DIALECTS[api].error(status, failed), status, headers)


def _models_response(api: Api, hosted: HostedProvider, name: str) -> web.Response:
    """Return the list with the one model that is served, in a shape that both libraries read."""
    if name not in ("", hosted.model):
        return _error_response(api, CallError("bad_request", f"the model served here is {hosted.model}", status=404))
    card = {"id": hosted.model, "object": "model", "created": 0, "owned_by": hosted.name}  # OpenAI's
    card |= {"type": "model", "display_name": hosted.model, "created_at": "1970-01-01T00:00:00Z"}  # Anthropic's
    if name:
        return _json_response(card)
    ends = {"first_id": hosted.model, "last_id": hosted.model}
    return _json_response({"object": "list", "data": [card], "has_more": False, **ends})


def _status_of(failed: CallError) -> int:
    if failed.status is not None and failed.kind in ("auth", "bad_request"):
        return failed.status
    return _STATUS[failed.kind]


def _json_response(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=dumps(data), status=status, headers=headers, content_type="application/json")


class GatewayServer:
    """Serves sessions on one socket; the token tells them apart. Lives on one event loop."""

    def __init__(self, endpoints: Mapping[ModelKey, Endpoint], call_runner: CallRunner, cache: Path) -> None:
        self._endpoints, self._call_runner, self._cache = endpoints, call_runner, cache
        # for this process's calls: two equal first requests of proposals are two samples
        self._own_cache = AnswerCache(cache)
        self._sessions: dict[str, GatewaySession] = {}
        self._folder = _make_folder()
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # at exit at the latest
        self._socket = self._folder / "s"
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        # handler_cancellation: do not go on paying for a client that has left
        self._runner = web.AppRunner(app, access_log=None, logger=_LOG, handler_cancellation=True, shutdown_timeout=0.5)

    async def start(self) -> None:
        """Listen on the socket."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._accept, self._socket, backlog=256)
        self._socket.chmod(0o666)  # the sandbox runs as another user; the token protects the socket

    async def close(self) -> None:
        """Stop listening and end all sessions."""
        self._server.close()
        for token in list(self._sessions):
            await self._sessions.pop(token).end()
        await self._runner.cleanup()
        self._remove()

    @asynccontextmanager
    async def session(self, grant: Grant, service: HostService | None = None) -> AsyncIterator[GatewaySession]:
        """Open a session whose token is valid as long as the context lasts."""
        token = f"sk-sia-{secrets.token_urlsafe(32)}"
        env = {  # what both companies' clients and litellm read
            **dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_BASE"), "{url}/v1"),
            **dict.fromkeys(("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"), "{url}"),
            **dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY"), token),
            "SIA_MODEL": self._endpoints[grant.model_key].hosted.model,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # the sandbox has no network to fetch another one
        }
        session = self._sessions[token] = self._new_session(grant, env, AnswerCache(self._cache), service)
        try:
            yield session
        finally:
            self._sessions.pop(token, None)
            await session.end()

    def own_session(self, grant: Grant) -> GatewaySession:
        """Return a session for one call from this process, which does not use the socket."""
        return self._new_session(grant, {}, self._own_cache)

    def _new_session(
        self, grant: Grant, env: Mapping[str, str], cache: AnswerCache, service: HostService | None = None
    ) -> GatewaySession:
        if grant.trajectories is not None:
            grant.trajectories.parent.mkdir(parents=True, exist_ok=True)
        cached = self._endpoints[grant.model_key].hosted.cache and grant.sample is None
        return GatewaySession(grant, GatewayAddress(self._socket, env), cache if cached else None, service)

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        return _RefusingProtocol() if server is None or len(server.connections) >= _MAX_CONNECTIONS else server()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1").removeprefix("/v1").rstrip("/")  # base URLs may end with /v1
        speaks_anthropic = "anthropic-version" in request.headers or "x-api-key" in request.headers
        api: Api = _API_BY_PATH.get(path) or ("anthropic" if speaks_anthropic else "openai")
        bearer = request.headers.get("authorization", "").partition(" ")[2].strip()
        tokens = (bearer, request.headers.get("x-api-key", ""))  # clients put it into either header, some into both
        session = next((self._sessions[token] for token in tokens if token in self._sessions), None)
        if session is None:
            unknown = "this token is unknown to the gateway, or its session has ended"
            return _error_response(api, CallError("auth", unknown, status=401))
        async with session.call():
            if request.method == "POST" and path.startswith(_SERVICE_PATH):
                return await _serve_host(request, path.removeprefix(_SERVICE_PATH), session)
            return await self._serve(request, path, api, session)

    async def _serve(self, request: web.Request, path: str, api: Api, session: GatewaySession) -> web.StreamResponse:
        endpoint = self._endpoints[session.grant.model_key]
        if request.method == "GET" and (path == "/models" or path.startswith("/models/")):
            return _models_response(api, endpoint.hosted, path.removeprefix("/models").removeprefix("/"))
        if request.method != "POST" or path not in (*_API_BY_PATH, _COUNT_PATH):
            message = f"{request.method} {request.path[:100]} is not served here; the gateway serves {_SERVED_TEXT}"
            return _error_response(api, CallError("bad_request", message, status=404, sent=False))
        body: Body = {}
        question = session.grant.question or short_text(request.headers.get("x-sia-question"))
        try:
            body = await _read_body(request)
            if path == _COUNT_PATH:
                return _json_response({"input_tokens": estimate_tokens(dumps(body).decode())})  # only providers count
            model_request = DIALECTS[api].prepare(body, endpoint.hosted)
            if api == "anthropic":
                headers = ((name, request.headers.get(name, "")) for name in _PASSED_HEADERS)
                model_request.headers = {
                    name: text for name, text in headers if text.isascii() and 0 < len(text) < 1000
                }
            model_request.question = question or model_request.question
            model_request.grant, model_request.turn = session.grant, session.turn(model_request.question)
        except (CallError, RecursionError) as error:
            failed = error if isinstance(error, CallError) else bad_request("the request is nested too deeply")
            record_refusal(session, api, body, question, failed)
            return _error_response(api, failed)
        writer = _ResponseWriter(request, model_request.stream)
        try:
            await self._call_runner.serve(session, endpoint, model_request, writer.emit)
            return await writer.end()
        except CallError as failed:
            return await writer.fail(api, failed)


async def _serve_host(request: web.Request, name: str, session: GatewaySession) -> web.Response:
    try:
        answer = await session.serve(name, await _read_body(request))
    except CallError as failed:
        return _error_response("openai", failed)
    if answer is None:
        missing = CallError("bad_request", "this session has no services of the host", status=404, sent=False)
        return _error_response("openai", missing)
    return _json_response(answer)


async def _read_body(request: web.Request) -> Body:
    try:
        body = json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        mebibytes = MAX_REQUEST_BYTES >> 20
        raise CallError("bad_request", f"a request has at most {mebibytes} MiB", status=413, sent=False) from None
    except (ValueError, RecursionError):
        raise bad_request("the request's body is not JSON") from None
    if not isinstance(body, dict):
        raise bad_request("the request's body must be a JSON object")
    return body


def _make_folder() -> Path:
    """Make the socket's folder. It cannot be listed, so that only those who know the socket's path find it."""
    folder = tempfile.mkdtemp(prefix="sia-gateway-")
    if len(os.fsencode(folder)) + len("/s") > _MAX_SOCKET_PATH_BYTES:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="sia-gateway-", dir="/tmp")
    Path(folder).chmod(0o711)
    return Path(folder)


class _RefusingProtocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
