"""The providers of a run's roles: endpoints with their circuit breaker, and the ways to send a request.

litellm has connection pools of its own, and sends a request again when its connection broke. Here one attempt is one
request, bounded in size, and known to the ledger: so litellm's HTTP transport is replaced by ours.
"""

import asyncio
import contextlib
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from sia_runner.config.components import HostedProvider, TokenPrices
from sia_runner.gateway.http_client import HttpClient, body_pieces, read_error
from sia_runner.records import SampledCall
from sia_runner.wire.dialects import DIALECTS, OpenAIChat, check_is_stream
from sia_runner.wire.failures import TRANSIENT_KINDS, CallError
from sia_runner.wire.grants import ModelKey
from sia_runner.wire.providers import ANTHROPIC_VERSION, auth_headers, key_of, redact
from sia_runner.wire.requests import AnswerSummary, Api, ModelRequest, SseSplitter, dumps, loads, short_text, sse_event

MAX_CONSECUTIVE_FAILURES = 5  # failed calls (after all attempts) without a success between them
_FATAL_STATUSES = (401, 402)  # a refused key stays refused
_FATAL_UNTIL_ANSWERED = (403, 404)  # may concern a single request, if the provider has answered others


class CircuitBreaker:
    """Stops calls to a provider that fails. It never closes again: the run stops and is resumed later."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.reason: str | None = None  # one line; None: closed
        self._failed, self._proven, self._opened = 0, False, asyncio.Event()

    def check(self) -> None:
        """Raise CallError (down) when the breaker is open."""
        if self.reason is not None:
            raise CallError("down", self.reason, sent=False)

    def succeeded(self) -> None:
        """Record an answered call."""
        self._failed, self._proven = 0, True

    def failed(self, failed: CallError) -> None:
        """Record a call that failed with all its attempts; open the breaker where no later call can succeed."""
        if failed.kind == "down" or self.reason is not None:
            return
        used_up = failed.code == "insufficient_quota" or (failed.kind == "rate_limited" and failed.final)
        hopeless = failed.status in _FATAL_STATUSES or used_up
        if hopeless or (failed.status in _FATAL_UNTIL_ANSWERED and not self._proven):
            self._open(f"provider {self.name}: {failed.message}")
        elif failed.kind in TRANSIENT_KINDS or failed.status in _FATAL_UNTIL_ANSWERED:
            self._failed += 1
            if self._failed >= MAX_CONSECUTIVE_FAILURES:
                self._open(f"provider {self.name}: {self._failed} calls in a row failed, the last: {failed.message}")

    async def pause(self, seconds: float) -> None:
        """Wait `seconds` between two attempts; stop early and raise CallError (down) if the breaker opens."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._opened.wait()
        self.check()

    def _open(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        self._opened.set()


Emit = Callable[[bytes], Awaitable[None]]


class AnswerBuffer:
    """Passes an answer on to the client as it arrives, except for its end.

    The end (an answer that is not streamed is all end) waits for `flush`, after the call is settled and recorded:
    a client that leaves once it has its answer cannot interrupt that.
    """

    def __init__(self, request: ModelRequest, emit: Emit, *, keep: bool) -> None:
        self._request, self._dialect, self._emit = request, DIALECTS[request.api], emit
        self._reader = self._dialect.reader(request) if request.stream else None
        self._splitter = SseSplitter()
        self._retained: list[bytes] | None = [] if keep else None
        self._end: list[bytes] = []
        self.emitted = False  # the client has received bytes: no further attempt is possible
        self.emitting = False

    async def take(self, piece: bytes) -> None:
        """Read one piece of the answer and pass its whole events on. Raises CallError."""
        if self._reader is None:
            self._end.append(piece)
            return
        ready = []
        for event in self._splitter.feed(piece):
            visible = self._reader.take(event)
            (self._end if self._reader.at_end else ready).append(visible)
        if data := b"".join(ready):
            if self._retained is not None:
                self._retained.append(data)
            await self._send(data)

    def finish(self) -> AnswerSummary:
        """Return the answer's summary. Raises CallError (malformed) for an incomplete or invalid answer."""
        if self._reader is None:
            content = b"".join(self._end)
            if isinstance(self._dialect, OpenAIChat) and content.lstrip().startswith(b"data:"):  # it only streams
                summary, whole = self._dialect.assemble(self._request, content)
                self._end = [whole]
                return summary
            return self._dialect.read(loads(content))
        check_is_stream(self._dialect, self._splitter)
        return self._reader.finish()

    def hold(self, data: bytes) -> None:
        """Take a whole answer that needs no reading."""
        self._end.append(data)

    def replay(self, stored: bytes) -> AnswerSummary:
        """Take a whole answer from the cache. Raises CallError where it is incomplete or invalid."""
        self._end.append(stored)
        if self._reader is not None:
            for event in self._splitter.feed(stored):
                self._reader.take(event)
        return self.finish()

    async def flush(self) -> None:
        """Send the end of the answer."""
        await self._send(b"".join(self._end))

    def content(self) -> bytes:
        """Return all bytes that the client gets."""
        return b"".join([*(self._retained or ()), *self._end])

    async def _send(self, data: bytes) -> None:
        self.emitting = True
        try:
            await self._emit(data)
        except (ConnectionError, RuntimeError) as error:
            raise CallError("cancelled", "the client is gone") from error
        self.emitted, self.emitting = True, False


API_PATHS: Mapping[Api, str] = {"openai": "/chat/completions", "anthropic": "/messages"}
# The two names of OpenAI's completion bound: older servers know the first, reasoning models take the second only.
_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_UNSUPPORTED = re.compile(
    r"unsupported|not support|unknown|unrecogni|unexpected|not permitted|deprecated|instead", re.I
)
_ONLY_STREAMS = re.compile(r"only.{0,20}\bstream|stream.{0,20}(only|required|must be (true|enabled))", re.I)


class PassThroughBackend:
    """Passes requests through to an endpoint that speaks the client's API."""

    def __init__(self, hosted: HostedProvider, api: Api, key: str | None, client: HttpClient) -> None:
        self._url, self._client = (hosted.base_url or "").rstrip("/") + API_PATHS[api], client
        self._headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "sia-runner"}
        self._headers |= auth_headers(hosted, key)
        self._refused: dict[str, str] = {}  # fields that the endpoint does not take, with its words
        self._only_streams = ""  # its words where it answers no other way

    async def ready(self) -> None:
        """Do nothing: there is nothing to load."""

    def adapt(self, request: ModelRequest, failed: CallError) -> bool:
        """Learn which field the endpoint does not take, for all requests; return whether this one can be sent again."""
        if failed.status in (400, 422) and _UNSUPPORTED.search(failed.message):
            named = {name for name in request.body if re.search(rf"\b{re.escape(name)}\b", failed.message)}
            refused = named.intersection(("temperature", "top_p"))
            if request.api == "openai" and not _LIMITS.keys() & self._refused.keys():
                refused |= set(list(named & _LIMITS.keys())[:1])
            self._refused |= dict.fromkeys(refused, failed.message)
        if failed.status in (400, 422) and request.api == "openai" and _ONLY_STREAMS.search(failed.message):
            self._only_streams = failed.message
        return self._change(request)

    def _change(self, request: ModelRequest) -> bool:
        fields = [name for name in self._refused if name in request.body]
        for name in fields:
            value = request.body.pop(name)
            if name in _LIMITS:
                request.body[_LIMITS[name]] = value
        if fields:
            words = dict.fromkeys(self._refused[name] for name in fields)
            request.notice = f"{'; '.join(words)}; the field is sent otherwise or left out"
        if streams := bool(self._only_streams) and not request.body.get("stream"):
            request.body |= {"stream": True, "stream_options": {"include_usage": True}}
            request.notice = f"{self._only_streams}; its stream is put together"
        if fields or streams:
            request.raw = dumps(request.body)
        return bool(fields) or streams

    async def send(self, request: ModelRequest, buffer: AnswerBuffer) -> AnswerSummary:
        """Send one request; the buffer takes the answer. Raises CallError."""
        self._change(request)
        headers = {**request.headers, **self._headers}
        if request.api == "anthropic":
            headers.setdefault("anthropic-version", ANTHROPIC_VERSION)
        response = await self._client.open(
            "POST", self._url, headers, request.raw, stream=bool(request.body.get("stream"))
        )
        try:
            if response.status >= 400:
                raise await read_error(response)
            if response.status != 200:
                raise CallError("malformed", f"the provider answered with status {response.status}", final=True)
            async for piece in body_pieces(response):
                await buffer.take(piece)
        finally:
            response.close()  # does nothing if the body was read to its end
        return buffer.finish()


# Request fields passed to litellm. Its other arguments include addresses, keys and callbacks: no harness may set these.
_PASSED_FIELDS: Mapping[Api, str] = {
    "openai": "messages tools tool_choice parallel_tool_calls functions function_call temperature top_p max_tokens "
    "max_completion_tokens stop seed presence_penalty frequency_penalty logit_bias logprobs top_logprobs "
    "response_format reasoning_effort thinking user stream stream_options",
    "anthropic": "messages system tools tool_choice temperature top_p top_k max_tokens stop_sequences thinking "
    "metadata stream",
}


class LitellmBackend:
    """Lets litellm translate requests for an endpoint that speaks another API."""

    def __init__(self, hosted: HostedProvider, key: str | None, client: HttpClient) -> None:
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
            "extra_headers": hosted.headers or None,
        } | {"timeout": hosted.timeout, "num_retries": 0, "max_retries": 0, "drop_params": True}

    async def ready(self) -> None:
        """Import litellm, which takes seconds, off the event loop and before the clock of an attempt runs."""
        if not _load_litellm.cache_info().currsize:
            await asyncio.to_thread(_load_litellm)

    async def send(self, request: ModelRequest, buffer: AnswerBuffer) -> AnswerSummary:
        """Send one request; the buffer takes the answer in the client's API. Raises CallError."""
        from sia_runner.gateway.litellm_transport import CURRENT_REQUEST, SingleRequest

        exchange = SingleRequest(self._client, request)
        token = CURRENT_REQUEST.set(exchange)
        try:
            import litellm

            passed = {name: request.body[name] for name in _PASSED_FIELDS[request.api].split() if name in request.body}
            send = litellm.acompletion if request.api == "openai" else litellm.anthropic_messages
            answer: Any = await send(**(passed | self._settings))
        except Exception as error:  # noqa: BLE001 - litellm has no common base for its errors
            raise exchange.failure(error) from None
        finally:
            CURRENT_REQUEST.reset(token)
        if not request.stream:
            exchange.check_answer()
            await buffer.take(dumps(answer) if isinstance(answer, Mapping) else answer.model_dump_json().encode())
            return buffer.finish()
        try:
            async for chunk in answer:
                is_raw = isinstance(chunk, bytes)
                await buffer.take(chunk if is_raw else sse_event(chunk.model_dump_json(exclude_none=True).encode()))
        except CallError:
            raise
        except Exception as error:  # noqa: BLE001
            raise exchange.failure(error) from None
        finally:
            await exchange.aclose()
        exchange.check_answer()
        if request.api == "openai":
            await buffer.take(sse_event(b"[DONE]"))
        return buffer.finish()


@lru_cache(maxsize=1)
def _load_litellm() -> None:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    from sia_runner.gateway.litellm_transport import LitellmTransport

    litellm.telemetry = False  # pyright: ignore[reportAttributeAccessIssue]
    litellm.suppress_debug_info = True
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)  # we report failures ourselves
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize  # pyright: ignore[reportPrivateImportUsage]
    litellm.use_chat_completions_url_for_anthropic_messages = True  # not OpenAI's responses API
    AsyncHTTPHandler.create_async_transport = staticmethod(lambda *_, **__: LitellmTransport())  # pyright: ignore


class ServedPolicy(Protocol):
    """A policy that this run serves itself, and whose weights can be trained."""

    hosted: HostedProvider
    training: TokenPrices | None  # of forward passes, and of passes with a gradient; None: not known

    @property
    def interruptions(self) -> int:
        """The number of times that a request had to wait, or to be sent again, because a server of the run ended."""
        ...

    def check(self) -> None:
        """Check packages and server. Raises ModelsError."""

    def start(self) -> Any:
        """Return the trainable model, loaded on first use. Raises ModelsError."""
        ...

    def submit(self, request: ModelRequest) -> Future[SampledCall]:
        """Queue a request; cancelling withdraws it until its batch starts. Raises CallError, as the future does."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return tokens as text."""
        ...

    def close(self) -> None:
        """Stop answering and free what the policy holds."""


class LocalBackend:
    """Asks a policy of this run: its answer is written for the client, and never parsed."""

    def __init__(self, policy: ServedPolicy) -> None:
        self._policy = policy

    async def ready(self) -> None:
        """Load the policy."""
        await asyncio.to_thread(self._policy.start)

    async def send(self, request: ModelRequest, buffer: AnswerBuffer) -> AnswerSummary:
        """Sample an answer. Raises CallError."""
        sampled = await asyncio.wrap_future(self._policy.submit(request))
        finish_reason, response = DIALECTS[request.api].respond(request, sampled, self._policy.decode)
        buffer.hold(response)
        model, billed = short_text(request.body["model"]), sampled.billed or len(sampled.completion_ids)
        counts, calls = (len(sampled.prompt_ids), billed), [dict(call) for call in sampled.tool_calls]
        return AnswerSummary(sampled.text, calls, finish_reason, model, *counts, sampled=sampled)


Backend = PassThroughBackend | LitellmBackend | LocalBackend


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One role's model. `slots` and `breaker` are shared by the roles that use the same address and key."""

    hosted: HostedProvider
    secrets: tuple[str, ...]
    slots: asyncio.Semaphore
    breaker: CircuitBreaker
    backends: Mapping[Api, Backend]  # by the client's API

    def clean(self, failed: CallError) -> CallError:
        """Remove keys from the error's message: providers repeat a key that they refuse."""
        failed.message = redact(failed.message, self.secrets)
        return failed


def build_endpoints(providers: Mapping[ModelKey, HostedProvider], client: HttpClient) -> dict[ModelKey, Endpoint]:
    """Return each model's endpoint. Raises ModelsError where a key is missing."""
    shared: dict[tuple[str | None, ...], tuple[asyncio.Semaphore, CircuitBreaker]] = {}
    result: dict[ModelKey, Endpoint] = {}
    for model_key, hosted in providers.items():
        identity = (hosted.base_url, hosted.litellm, hosted.key, hosted.key_file)
        own = (asyncio.Semaphore(hosted.concurrency), CircuitBreaker(hosted.name))
        slots, breaker = shared.setdefault(identity, own)
        key = key_of(hosted)
        secrets = tuple(secret for secret in (key, *hosted.headers.values()) if secret and len(secret) >= 8)
        backends: dict[Api, Backend] = {api: LitellmBackend(hosted, key, client) for api in DIALECTS}
        if hosted.api != "litellm":
            backends[hosted.api] = PassThroughBackend(hosted, hosted.api, key, client)
        result[model_key] = Endpoint(hosted, secrets, slots, breaker, backends)
    return result


def policy_endpoint(policy: ServedPolicy) -> Endpoint:
    """Return the endpoint of a policy."""
    hosted, backend = policy.hosted, LocalBackend(policy)
    slots = asyncio.Semaphore(hosted.concurrency)
    return Endpoint(hosted, (), slots, CircuitBreaker(hosted.name), dict.fromkeys(DIALECTS, backend))
