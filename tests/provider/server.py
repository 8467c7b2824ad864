"""A provider of language models on 127.0.0.1: real HTTP, real streams, answers from a script."""

import asyncio
import inspect
import json
import socket
import threading
from collections import deque
from dataclasses import asdict
from types import ModuleType
from typing import Literal

from aiohttp import web

from tests.provider import anthropic_api, openai_api
from tests.provider.answers import Request, Script, Spent, Status, Tally
from tests.provider.sending import Exchange, send, to_json

Api = Literal["openai", "anthropic"]
APIS: dict[Api, ModuleType] = {"openai": openai_api, "anthropic": anthropic_api}
BIGGEST_REQUEST = 64 << 20


class ProviderServer:
    """``with ProviderServer(script) as server:`` serves at `server.base_url` from a thread of its own.

    `script(request)` runs on the server's event loop: it must not block (use `Answer.delay`, or write `async def`). No
    `keys`: no key is asked for. Closing it in the middle of a test is a provider that died; `port` brings it back.
    """

    def __init__(
        self,
        script: Script,
        *,
        models: tuple[str, ...] = ("scripted",),
        keys: tuple[str, ...] = ("test-key",),
        port: int = 0,
    ) -> None:
        self.script = script
        self.models = models
        self.keys = keys
        self.port = port
        self.tally = Tally()
        self.requests: deque[Request] = deque(maxlen=1000)
        self.errors: list[BaseException] = []  # of the script; its request was answered with 500
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "ProviderServer":
        self._thread = threading.Thread(target=self._loop.run_forever, name="provider", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse new connections and cut those there are. Safe to call twice."""
        if self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._thread = None
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=BIGGEST_REQUEST)
        app.router.add_post("/v1/chat/completions", self._openai)
        app.router.add_post("/v1/messages", self._anthropic)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{name}", self._models)
        app.router.add_get("/tally", self._tally)
        self._runner = runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        sock = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self.port = sock.getsockname()[1]
        await web.SockSite(runner, sock).start()

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _openai(self, http: web.Request) -> web.StreamResponse:
        return await self._serve(http, "openai")

    async def _anthropic(self, http: web.Request) -> web.StreamResponse:
        return await self._serve(http, "anthropic")

    async def _serve(self, http: web.Request, spoken: Api) -> web.StreamResponse:
        self.tally.calls += 1
        n = self.tally.calls - 1
        api = APIS[spoken]
        raw = await http.read()
        try:
            request = self._read(n, spoken, raw, {name.lower(): value for name, value in http.headers.items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return _status(api, 400, f"cannot read the request: {error!r}")
        self.requests.append(request)
        refusal = self._refusal(api, request)
        if refusal is not None:
            return refusal
        reaction = await self._react(request)
        try:
            return await send(Exchange(http, request, api, self._answered), reaction)
        except ConnectionError:  # the client has gone, or was reset on purpose: nobody reads what is returned
            return web.Response()

    def _read(self, n: int, spoken: Api, raw: bytes, headers: dict[str, str]) -> Request:
        api = APIS[spoken]
        body = json.loads(raw)
        return Request(
            n, spoken, body["model"], api.messages(body), api.tools(body), body, headers, api.key(headers), len(raw)
        )

    def _refusal(self, api: ModuleType, request: Request) -> web.Response | None:
        if self.keys and request.key not in self.keys:
            return _status(api, 401, "Incorrect API key provided")
        if request.model not in self.models:
            return _status(api, 404, f"The model `{request.model}` does not exist or you do not have access to it.")
        return None

    async def _react(self, request: Request):
        try:
            reaction = self.script(request)
            return await reaction if inspect.isawaitable(reaction) else reaction
        except Exception as error:
            self.errors.append(error)
            return Status(500, message=f"the script failed: {error!r}")

    def _answered(self, spent: Spent):
        """Counted on the event loop only, so no lock is needed."""
        self._count(1, spent)
        return lambda: self._count(-1, spent)

    def _count(self, sign: int, spent: Spent) -> None:
        self.tally.answered += sign
        self.tally.input_tokens += sign * spent.input
        self.tally.output_tokens += sign * spent.output

    async def _models(self, http: web.Request) -> web.Response:
        api = anthropic_api if "anthropic-version" in http.headers else openai_api
        headers = {name.lower(): value for name, value in http.headers.items()}
        if self.keys and api.key(headers) not in self.keys:
            return _status(api, 401, "Incorrect API key provided")
        name = http.match_info.get("name")
        if name is None:
            return to_json(api.models(self.models))
        return to_json(api.model(name)) if name in self.models else _status(api, 404, f"no model `{name}`")

    async def _tally(self, http: web.Request) -> web.Response:
        del http
        return to_json(asdict(self.tally))


def _status(api: ModuleType, code: int, message: str) -> web.Response:
    return web.Response(status=code, body=api.error(code, message), content_type="application/json")
