"""The providers of a run's roles, as the gateway uses them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from sia_runner.models.anthropic_wire import Anthropic
from sia_runner.models.breaker import Breaker
from sia_runner.models.failures import Failed
from sia_runner.models.forward import Forward
from sia_runner.models.keys import key_of, redact
from sia_runner.models.line import Line
from sia_runner.models.openai_wire import OpenAI
from sia_runner.models.protocol import Role
from sia_runner.models.translate import Translate
from sia_runner.models.wire import Api, Asked, Dialect
from sia_runner.schema.provider import Hosted

DIALECTS: Mapping[Api, Dialect] = {"openai": OpenAI(), "anthropic": Anthropic()}


class Backend(Protocol):
    """Sends requests to one provider."""

    async def ready(self) -> None:
        """Load heavy libraries before the clock of an attempt runs."""
        ...

    def pieces(self, request: Asked) -> AsyncIterator[bytes]:
        """Send one request and yield the answer's bytes. Raises CallError."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One role's model. `slots` and `breaker` are shared by the roles that use the same address and key."""

    hosted: Hosted
    secrets: tuple[str, ...]
    slots: asyncio.Semaphore
    breaker: Breaker
    backends: Mapping[Api, Backend]  # by the client's API

    def clean(self, failed: Failed) -> Failed:
        """Remove keys from the error's message: providers repeat a key that they refuse."""
        failed.message = redact(failed.message, self.secrets)
        return failed


def endpoints(providers: Mapping[Role, Hosted], client: Line) -> dict[Role, Endpoint]:
    """Return each role's endpoint. Raises ModelsError where a key is missing."""
    shared: dict[tuple[str | None, ...], tuple[asyncio.Semaphore, Breaker]] = {}
    result: dict[Role, Endpoint] = {}
    for role, hosted in providers.items():
        identity = (hosted.base_url, hosted.litellm, hosted.key, hosted.key_file)
        slots, breaker = shared.setdefault(identity, (asyncio.Semaphore(hosted.concurrency), Breaker(hosted.name)))
        key = key_of(hosted)
        secrets = tuple(secret for secret in (key, *hosted.headers.values()) if secret and len(secret) >= 8)
        result[role] = Endpoint(hosted, secrets, slots, breaker, _backends(hosted, key, client))
    return result


def _backends(hosted: Hosted, key: str | None, client: Line) -> dict[Api, Backend]:
    return {
        api: Forward(hosted, key, client) if api == hosted.api else Translate(hosted, key, client) for api in DIALECTS
    }
