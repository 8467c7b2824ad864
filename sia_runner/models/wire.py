"""What both APIs have in common: a request as it will be sent, what an answer said, and what no request may ask for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from sia_runner.models.failures import Failed
from sia_runner.models.protocol import Grant
from sia_runner.models.sse import Event
from sia_runner.records import Sampled
from sia_runner.schema.provider import Hosted

Api = Literal["openai", "anthropic"]
Body = dict[str, Any]

_LONGEST_ID = 200  # characters of a question's id


@dataclass(slots=True)
class Asked:
    """One request of a client, normalised. `body` is in the shape of `api`; its model is the configured one."""

    api: Api
    body: Body
    stream: bool
    asked_model: str  # as the client named it
    question: str | None
    output_tokens: int  # its completion bound
    wants_usage: bool = True  # of a stream: does the client expect the chunk that says what was used?
    headers: Mapping[str, str] = field(default_factory=dict)  # of the client, those that the API needs
    raw: bytes = b""  # the body's JSON
    grant: Grant | None = None  # on whose account; a policy asks for it
    turn: int = 0  # how many calls of this stay for the same question came before
    sampled: Sampled | None = None  # by a policy, when it was answered

    def __post_init__(self) -> None:
        self.raw = self.raw or dumps(self.body)


@dataclass(slots=True)
class Summary:
    """What an answer said. Token counts are None where the provider gave none; input includes what was cached."""

    text: str = ""
    tool_calls: list[dict[str, str]] = field(default_factory=list)  # id, name, arguments
    finish_reason: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0  # read from the provider's cache
    written_tokens: int = 0  # written to it


class Reader(Protocol):
    """Follows a stream. `take` returns what the client is to see of an event and raises Failed for what is none."""

    ended: bool  # the last event was the API's end mark

    def take(self, event: Event) -> bytes: ...

    def finish(self) -> Summary:
        """Raises Failed when the stream ended before its end."""
        ...


class Dialect(Protocol):
    """One API: how its requests are normalised, its answers read and its errors said."""

    api: Api

    def prepare(self, body: Body, hosted: Hosted) -> Asked:
        """Raises Failed (bad_request)."""
        ...

    def read(self, body: Any) -> Summary:
        """A whole answer. Raises Failed (malformed)."""
        ...

    def reader(self, asked: Asked) -> Reader: ...

    def error(self, status: int, failed: Failed) -> Body: ...

    def error_event(self, status: int, failed: Failed) -> bytes:
        """For a stream under way."""
        ...


def dumps(data: Any) -> bytes:
    """Compact JSON; a lone surrogate, which UTF-8 cannot hold, is escaped."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(data, separators=(",", ":")).encode()


def loads(data: bytes) -> Any:
    """Raises Failed (malformed); deep nesting is malformed too."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Failed("malformed", f"the provider's answer is no JSON: {data[:80]!r}") from None


def text_id(value: Any) -> str | None:
    """A question's id, where a request gives one."""
    if not isinstance(value, str) or not value:
        return None
    return value[:_LONGEST_ID].encode(errors="replace").decode()  # it may hold lone surrogates, which no file can


def count(value: Any) -> int | None:
    """Tokens as an answer reports them; None for anything but a count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else None
