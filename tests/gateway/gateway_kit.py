"""Shared parts of the gateway tests: the real service against the provider server, and unmodified clients."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import openai

from sia_runner.config.components import HostedProvider, TokenPrices
from sia_runner.config.experiment import BudgetConfig
from sia_runner.gateway.service import GatewayService
from sia_runner.wire.grants import Grant
from tests.provider import Answer, ProviderServer

HI = [{"role": "user", "content": "hi"}]
PRICES = TokenPrices(input=1.0, output=2.0)


def hosted(base_url: str, **changes: Any) -> HostedProvider:
    settings = {
        "name": "custom",
        "kind": "hosted",
        "api": "openai",
        "litellm": "openai",
        "model": "scripted",
        "base_url": base_url,
        "key": "SIA_TEST_KEY",
        "timeout": 5.0,
        "attempts": 3,
        "max_wait_seconds": 0.05,
        "prices": PRICES,
    }
    return HostedProvider.model_validate(settings | changes)


class Scene:
    """A scripted provider, the gateway service in front of it, and clients as a harness has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trajectories = folder / "trajectories.jsonl"
        self.reactions: list[Any] = []  # said once each, in order; then `otherwise`
        self.otherwise: Any = Answer("hello")
        self._lock = threading.Lock()
        self.server = ProviderServer(self._script)
        self.models: GatewayService

    def _script(self, request):
        with self._lock:
            reaction = self.reactions.pop(0) if self.reactions else self.otherwise
        return reaction(request) if callable(reaction) else reaction

    def open(self, budget: BudgetConfig | None = None, **provider: Any) -> "Scene":
        entry = hosted(provider.pop("base_url", self.server.base_url), **provider)
        roles = {"meta": entry, "target": entry}
        self.models = GatewayService(roles, self.folder / "ledger", budget or BudgetConfig(), self.folder / "cache")
        return self

    def grant(self, **changes: Any) -> Grant:
        settings = {
            "role": "target",
            "generation": 1,
            "candidate": "gen_1",
            "purpose": "trial",
            "trajectories": self.trajectories,
        }
        return Grant(**(settings | changes))

    @contextmanager
    def session(self, **changes: Any) -> Iterator["Guest"]:
        with self.models.open_session(self.grant(**changes)) as session:
            yield Guest(session)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.trajectories.read_text().splitlines()]

    def spent(self) -> tuple[int, int]:
        usage = self.models.ledger.usage()
        return usage.calls, usage.tokens

    def counted(self) -> tuple[int, int]:
        tally = self.server.tally
        return tally.calls, tally.input_tokens + tally.output_tokens


class Guest:
    """A session and its clients, which know the environment variables only."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.env = {name: value.replace("{url}", "http://gateway") for name, value in session.address.env.items()}

    def http(self, **settings: Any) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.session.address.socket), verify=False)
        headers = {"authorization": f"Bearer {self.env['OPENAI_API_KEY']}"}
        return httpx.Client(transport=transport, base_url="http://gateway", headers=headers, timeout=30, **settings)

    def openai(self, **settings: Any) -> openai.OpenAI:
        client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.session.address.socket), verify=False), timeout=30
        )
        where = {"base_url": self.env["OPENAI_BASE_URL"], "api_key": self.env["OPENAI_API_KEY"]}
        return openai.OpenAI(http_client=client, **where, **settings)

    def anthropic(self, **settings: Any) -> anthropic.Anthropic:
        client = httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(self.session.address.socket), verify=False), timeout=30
        )
        where = {"base_url": self.env["ANTHROPIC_BASE_URL"], "api_key": self.env["ANTHROPIC_API_KEY"]}
        return anthropic.Anthropic(http_client=client, **where, **settings)

    def ask(self, text: str = "hi", **settings: Any) -> str:
        messages = [{"role": "user", "content": text}]
        answer = self.openai().chat.completions.create(model="any", messages=messages, **settings)
        return answer.choices[0].message.content or ""

    def ask_all(self, texts: list[str], threads: int) -> list[Any]:
        """Concurrently; an exception stands where there is no answer."""
        client = self.openai()

        def ask_one(text: str) -> Any:
            messages: Any = [{"role": "user", "content": text}]
            try:
                answer = client.chat.completions.create(model="any", messages=messages, user=text, max_tokens=64)
                return answer.choices[0].message.content
            except openai.APIError as error:
                return error

        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(ask_one, texts))
