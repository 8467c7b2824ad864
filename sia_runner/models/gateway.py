"""The HTTP side: what a harness's OpenAI and Anthropic clients talk to, on a Unix socket."""

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

from sia_runner.models import replies, tokens
from sia_runner.models.attempts import Desk
from sia_runner.models.cache import Cache
from sia_runner.models.endpoints import DIALECTS, Endpoint
from sia_runner.models.failures import Failed
from sia_runner.models.protocol import Grant, Role
from sia_runner.models.refusals import bad_request
from sia_runner.models.settling import refuse
from sia_runner.models.stay import Stay
from sia_runner.models.wire import Api, Asked, Body, dumps, text_id
from sia_runner.records import Door

BIGGEST_REQUEST = 8 << 20  # bytes
_CONNECTIONS = 512  # at the same time: a harness must not take all of the runner's file descriptors
_SOCKET_PATH = 107  # bytes that a Unix socket's address has room for
_PASSED = ("anthropic-version", "anthropic-beta")  # headers that are part of a request
_SERVED: Mapping[str, Api] = {"/chat/completions": "openai", "/messages": "anthropic"}
_LOG = logging.getLogger(__name__)  # what a harness sends that is no HTTP is nothing for the user's terminal
_LOG.addHandler(logging.NullHandler())
_LOG.propagate = False
_COUNTS = "/messages/count_tokens"


class Gateway:
    """Serves visits on one socket; the token says whose a call is. Lives on one event loop."""

    def __init__(self, endpoints: Mapping[Role, Endpoint], desk: Desk, cache: Path) -> None:
        self._endpoints, self._desk, self._cache = endpoints, desk, cache
        self._own = Cache(cache)  # of this process's calls: two proposals that begin alike are two samples
        self._stays: dict[str, Stay] = {}
        self._folder = _folder()
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)  # or when we exit
        self._socket = self._folder / "s"
        app = web.Application(client_max_size=BIGGEST_REQUEST)
        app.router.add_route("*", "/{path:.*}", self._answer)
        # handler_cancellation: a client that is gone shall not be paid for any longer
        self._runner = web.AppRunner(app, access_log=None, logger=_LOG, handler_cancellation=True, shutdown_timeout=0.5)

    async def start(self) -> None:
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._accept, self._socket, backlog=256)
        self._socket.chmod(0o666)  # the sandbox has a user of its own; the token is what protects

    async def close(self) -> None:
        self._server.close()
        for token in list(self._stays):
            await self._stays.pop(token).end()
        await self._runner.cleanup()
        self._remove()

    @asynccontextmanager
    async def visit(self, grant: Grant) -> AsyncIterator[Stay]:
        """A stay whose token is good for as long as the context lasts."""
        token = f"sk-sia-{secrets.token_urlsafe(32)}"
        door = Door(self._socket, _environment(token, self._endpoints[grant.role].hosted.model))
        stay = self._stay(grant, door, Cache(self._cache))
        self._stays[token] = stay
        try:
            yield stay
        finally:
            self._stays.pop(token, None)
            await stay.end()

    def own(self, grant: Grant) -> Stay:
        """For one call from this process, which comes through no door."""
        return self._stay(grant, Door(self._socket, {}), self._own)

    def _stay(self, grant: Grant, door: Door, cache: Cache) -> Stay:
        grant.trajectories.parent.mkdir(parents=True, exist_ok=True)
        cached = self._endpoints[grant.role].hosted.cache and grant.sample is None
        return Stay(grant, door, cache if cached else None)

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        return _Refusal() if server is None or len(server.connections) >= _CONNECTIONS else server()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1").removeprefix("/v1").rstrip("/")  # base URLs end with it, or do not
        api: Api = _SERVED.get(path) or ("anthropic" if _speaks_anthropic(request) else "openai")
        stay = next((self._stays[token] for token in _tokens(request) if token in self._stays), None)
        if stay is None:
            return replies.error(
                api, Failed("auth", "this token is not good, or no longer, at the gateway", status=401)
            )
        async with stay.call():
            return await self._serve(request, path, api, stay)

    async def _serve(self, request: web.Request, path: str, api: Api, stay: Stay) -> web.StreamResponse:
        endpoint = self._endpoints[stay.grant.role]
        if request.method == "GET" and (path == "/models" or path.startswith("/models/")):
            return replies.models(api, endpoint.hosted, path.removeprefix("/models").removeprefix("/"))
        if request.method != "POST" or path not in (*_SERVED, _COUNTS):
            return replies.error(api, replies.not_served(request.method, request.path))
        body: Body = {}
        question = stay.grant.question or text_id(request.headers.get("x-sia-question"))
        try:
            body = await _body(request)
            if path == _COUNTS:
                return replies.counted(tokens.estimate(dumps(body).decode()))
            asked = _asked(request, api, body, endpoint)
            asked.question = question or asked.question
            asked.grant, asked.turn = stay.grant, stay.turn(asked.question)
        except (Failed, RecursionError) as error:
            failed = error if isinstance(error, Failed) else bad_request("the request is nested too deeply")
            refuse(stay, api, body, question, failed)
            return replies.error(api, failed)
        return await self._call(request, stay, endpoint, asked)

    async def _call(self, request: web.Request, stay: Stay, endpoint: Endpoint, asked: Asked) -> web.StreamResponse:
        sending = replies.Sending(request, asked.stream)
        try:
            await self._desk.serve(stay, endpoint, asked, sending.emit)
            return await sending.end()
        except Failed as failed:
            return await sending.fail(asked.api, failed)


def _asked(request: web.Request, api: Api, body: Body, endpoint: Endpoint) -> Asked:
    asked = DIALECTS[api].prepare(body, endpoint.hosted)
    if api == "anthropic":
        given = {name: request.headers.get(name, "") for name in _PASSED}
        asked.headers = {name: value for name, value in given.items() if value.isascii() and 0 < len(value) < 1000}
    return asked


async def _body(request: web.Request) -> Body:
    try:
        body = json.loads(await request.read())
    except web.HTTPRequestEntityTooLarge:
        most = BIGGEST_REQUEST >> 20
        raise Failed("bad_request", f"a request has at most {most} MiB", status=413, sent=False) from None
    except (ValueError, RecursionError):
        raise bad_request("the request's body is no JSON") from None
    if not isinstance(body, dict):
        raise bad_request("the request's body must be a JSON object")
    return body


def _tokens(request: web.Request) -> tuple[str, str]:
    """Where clients put their key; some fill both places."""
    _, _, bearer = request.headers.get("authorization", "").partition(" ")
    return bearer.strip(), request.headers.get("x-api-key", "")


def _speaks_anthropic(request: web.Request) -> bool:
    return "anthropic-version" in request.headers or "x-api-key" in request.headers


def _environment(token: str, model: str) -> dict[str, str]:
    """What the clients of both companies, and litellm, look for."""
    return {
        "OPENAI_BASE_URL": "{url}/v1",
        "OPENAI_API_BASE": "{url}/v1",
        "OPENAI_API_KEY": token,
        "ANTHROPIC_BASE_URL": "{url}",
        "ANTHROPIC_API_BASE": "{url}",
        "ANTHROPIC_API_KEY": token,
        "SIA_MODEL": model,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # there is no network to fetch another one
    }


def _folder() -> Path:
    """Not readable, so that a socket is found by those only who were told its name."""
    folder = tempfile.mkdtemp(prefix="sia-gateway-")
    if len(os.fsencode(folder)) + len("/s") > _SOCKET_PATH:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="sia-gateway-", dir="/tmp")
    Path(folder).chmod(0o711)
    return Path(folder)


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
