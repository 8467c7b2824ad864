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
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from sia_runner.models.attempts import Desk
from sia_runner.models.cache import Cache
from sia_runner.models.endpoints import DIALECTS, Endpoint
from sia_runner.models.failures import Failed
from sia_runner.models.protocol import Grant, Role
from sia_runner.models.refusals import bad_request
from sia_runner.models.replies import (
    ResponseWriter,
    error_response,
    models_response,
    not_served_error,
    token_count_response,
)
from sia_runner.models.settling import refuse
from sia_runner.models.stay import Stay
from sia_runner.models.tokens import estimate
from sia_runner.models.wire import Api, Asked, Body, dumps, text_id
from sia_runner.records import Door

BIGGEST_REQUEST = 8 << 20  # bytes
_CONNECTIONS = 512  # concurrent; a harness must not use up the runner's file descriptors
_SOCKET_PATH = 107  # longest address of a Unix socket, in bytes
_PASSED = ("anthropic-version", "anthropic-beta")  # headers that are part of a request
_SERVED: Mapping[str, Api] = {"/chat/completions": "openai", "/messages": "anthropic"}
_LOG = logging.getLogger(__name__)  # invalid HTTP from a harness must not reach the user's terminal
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False
_COUNTS = "/messages/count_tokens"


class Gateway:
    """Serves sessions on one socket; the token tells them apart. Lives on one event loop."""

    def __init__(self, endpoints: Mapping[Role, Endpoint], call_runner: Desk, cache: Path) -> None:
        self._endpoints, self._call_runner, self._cache = endpoints, call_runner, cache
        self._own_cache = Cache(
            cache
        )  # for this process's calls: two equal first requests of proposals are two samples
        self._sessions: dict[str, Stay] = {}
        self._folder = _folder()
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # at exit at the latest
        self._socket = self._folder / "s"
        app = web.Application(client_max_size=BIGGEST_REQUEST)
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
    async def visit(self, grant: Grant) -> AsyncIterator[Stay]:
        """Open a session whose token is valid as long as the context lasts."""
        token = f"sk-sia-{secrets.token_urlsafe(32)}"
        door = Door(self._socket, _environment(token, self._endpoints[grant.role].hosted.model))
        session = self._new_session(grant, door, Cache(self._cache))
        self._sessions[token] = session
        try:
            yield session
        finally:
            self._sessions.pop(token, None)
            await session.end()

    def own_session(self, grant: Grant) -> Stay:
        """Return a session for one call from this process, which does not use the socket."""
        return self._new_session(grant, Door(self._socket, {}), self._own_cache)

    def _new_session(self, grant: Grant, door: Door, cache: Cache) -> Stay:
        grant.trajectories.parent.mkdir(parents=True, exist_ok=True)
        cached = self._endpoints[grant.role].hosted.cache and grant.sample is None
        return Stay(grant, door, cache if cached else None)

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        return _Refusal() if server is None or len(server.connections) >= _CONNECTIONS else server()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1").removeprefix("/v1").rstrip("/")  # base URLs may end with /v1
        api: Api = _SERVED.get(path) or ("anthropic" if _speaks_anthropic(request) else "openai")
        session = next((self._sessions[token] for token in _tokens(request) if token in self._sessions), None)
        if session is None:
            return error_response(
                api, Failed("auth", "this token is unknown to the gateway, or its session has ended", status=401)
            )
        async with session.call():
            return await self._serve(request, path, api, session)

    async def _serve(self, request: web.Request, path: str, api: Api, session: Stay) -> web.StreamResponse:
        endpoint = self._endpoints[session.grant.role]
        if request.method == "GET" and (path == "/models" or path.startswith("/models/")):
            return models_response(api, endpoint.hosted, path.removeprefix("/models").removeprefix("/"))
        if request.method != "POST" or path not in (*_SERVED, _COUNTS):
            return error_response(api, not_served_error(request.method, request.path))
        body: Body = {}
        question = session.grant.question or text_id(request.headers.get("x-sia-question"))
        try:
            body = await _body(request)
            if path == _COUNTS:
                return token_count_response(estimate(dumps(body).decode()))
            model_request = _prepare(request, api, body, endpoint)
            model_request.question = question or model_request.question
            model_request.grant, model_request.turn = session.grant, session.turn(model_request.question)
        except (Failed, RecursionError) as error:
            failed = error if isinstance(error, Failed) else bad_request("the request is nested too deeply")
            refuse(session, api, body, question, failed)
            return error_response(api, failed)
        return await self._call(request, session, endpoint, model_request)

    async def _call(
        self, request: web.Request, session: Stay, endpoint: Endpoint, model_request: Asked
    ) -> web.StreamResponse:
        writer = ResponseWriter(request, model_request.stream)
        try:
            await self._call_runner.serve(session, endpoint, model_request, writer.emit)
            return await writer.end()
        except Failed as failed:
            return await writer.fail(model_request.api, failed)


def _prepare(request: web.Request, api: Api, body: Body, endpoint: Endpoint) -> Asked:
    model_request = DIALECTS[api].prepare(body, endpoint.hosted)
    if api == "anthropic":
        headers = {name: request.headers.get(name, "") for name in _PASSED}
        model_request.headers = {
            name: value for name, value in headers.items() if value.isascii() and 0 < len(value) < 1000
        }
    return model_request


async def _body(request: web.Request) -> Body:
    try:
        body = json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        mebibytes = BIGGEST_REQUEST >> 20
        raise Failed("bad_request", f"a request has at most {mebibytes} MiB", status=413, sent=False) from None
    except (ValueError, RecursionError):
        raise bad_request("the request's body is not JSON") from None
    if not isinstance(body, dict):
        raise bad_request("the request's body must be a JSON object")
    return body


def _tokens(request: web.Request) -> tuple[str, str]:
    """Return the tokens of a request; clients put it into either header, some into both."""
    _, _, bearer = request.headers.get("authorization", "").partition(" ")
    return bearer.strip(), request.headers.get("x-api-key", "")


def _speaks_anthropic(request: web.Request) -> bool:
    return "anthropic-version" in request.headers or "x-api-key" in request.headers


def _environment(token: str, model: str) -> dict[str, str]:
    """Return the variables that both companies' clients and litellm read."""
    return {
        "OPENAI_BASE_URL": "{url}/v1",
        "OPENAI_API_BASE": "{url}/v1",
        "OPENAI_API_KEY": token,
        "ANTHROPIC_BASE_URL": "{url}",
        "ANTHROPIC_API_BASE": "{url}",
        "ANTHROPIC_API_KEY": token,
        "SIA_MODEL": model,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # the sandbox has no network to fetch another one
    }


def _folder() -> Path:
    """Make the socket's folder. It cannot be listed, so that only those who know the socket's path find it."""
    folder = tempfile.mkdtemp(prefix="sia-gateway-")
    if len(os.fsencode(folder)) + len("/s") > _SOCKET_PATH:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="sia-gateway-", dir="/tmp")
    Path(folder).chmod(0o711)
    return Path(folder)


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
