"""Requests to an endpoint that speaks another API than the client: litellm translates them, this package sends them.

litellm has connection pools of its own, and sends a request again when its connection broke. Here one attempt is one
request, bounded in size, and known to the ledger: so litellm's HTTP transport is replaced by ours.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import Any

from sia_runner.models.line import Line
from sia_runner.models.sse import event
from sia_runner.models.wire import Api, Asked, dumps
from sia_runner.schema.provider import Hosted

# Request fields passed to litellm. Its other arguments include addresses, keys and callbacks: no harness may set these.
_CHAT = """
    messages tools tool_choice parallel_tool_calls functions function_call temperature top_p max_tokens
    max_completion_tokens stop seed presence_penalty frequency_penalty logit_bias logprobs top_logprobs
    response_format reasoning_effort thinking user stream stream_options
"""
_MESSAGES = """
    messages system tools tool_choice temperature top_p top_k max_tokens stop_sequences thinking metadata stream
"""
_PASSED: Mapping[Api, frozenset[str]] = {
    "openai": frozenset(_CHAT.split()),
    "anthropic": frozenset(_MESSAGES.split()),
}


class Translate:
    """Translates requests with litellm."""

    def __init__(self, hosted: Hosted, key: str | None, client: Line) -> None:
        self._client = client
        provider = hosted.litellm if hosted.api == "litellm" else hosted.api  # the API the endpoint speaks
        base = hosted.base_url
        if base and provider == "anthropic":
            base = base.rstrip("/").removesuffix("/v1")  # litellm adds it
        self._settings: dict[str, Any] = {
            "model": f"{provider}/{hosted.model}",
            # no key: an empty one would make litellm look for some other key in the environment
            "api_key": key or ("none" if base else None),
            "api_base": base,
            "timeout": hosted.timeout,
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": True,
            "extra_headers": hosted.headers or None,
        }

    async def ready(self) -> None:
        """Import litellm, which takes seconds, off the event loop and before the clock of an attempt runs."""
        if not _load.cache_info().currsize:
            await asyncio.to_thread(_load)

    async def pieces(self, request: Asked) -> AsyncIterator[bytes]:
        """Yield the answer's bytes in the client's API: the whole JSON, or a stream of events. Raises CallError."""
        from sia_runner.models.transport import CURRENT, Once

        exchange = Once(self._client, request)
        token = CURRENT.set(exchange)
        try:
            answer = await self._begin(request)
        except Exception as error:  # noqa: BLE001 - litellm has no common base for its errors
            raise exchange.failure(error) from None
        finally:
            CURRENT.reset(token)
        if not request.stream:
            exchange.check_answer()
            yield dumps(answer) if isinstance(answer, Mapping) else answer.model_dump_json().encode()
            return
        try:
            async for chunk in answer:
                yield chunk if isinstance(chunk, bytes) else event(chunk.model_dump_json(exclude_none=True).encode())
        except Exception as error:  # noqa: BLE001
            raise exchange.failure(error) from None
        finally:
            await exchange.close()
        exchange.check_answer()
        if request.api == "openai":
            yield event(b"[DONE]")

    async def _begin(self, request: Asked) -> Any:
        import litellm

        passed = {name: value for name, value in request.body.items() if name in _PASSED[request.api]}
        send = litellm.acompletion if request.api == "openai" else litellm.anthropic_messages
        return await send(**(passed | self._settings))


@lru_cache(maxsize=1)
def _load() -> None:
    """Import litellm, quiet and without a network of its own."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    from sia_runner.models.transport import Transport

    litellm.telemetry = False  # pyright: ignore[reportAttributeAccessIssue]
    litellm.suppress_debug_info = True
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)  # we report failures ourselves
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # pyright: ignore[reportPrivateImportUsage]
    litellm.use_chat_completions_url_for_anthropic_messages = True  # not OpenAI's responses API
    AsyncHTTPHandler.create_async_transport = staticmethod(lambda *_, **__: Transport())  # pyright: ignore
