"""The data that both APIs share: a request ready to be sent, the summary of an answer, and how each API reads them."""

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
    """One request of a client, normalised. `body` has the shape of `api`; its model is the configured one."""

    api: Api
    body: Body
    stream: bool
    asked_model: str  # the client's name for the model
    question: str | None
    output_tokens: int  # completion bound
    wants_usage: bool = True  # streams only: the client expects the chunk with the usage
    headers: Mapping[str, str] = field(default_factory=dict)  # the client's headers that the API needs
    raw: bytes = b""  # the body's JSON
    grant: Grant | None = None  # the account; a policy reads it
    turn: int = 0  # number of earlier calls of this session for the same question
    sampled: Sampled | None = None  # set by a policy when it answers

    def __post_init__(self) -> None:
        self.raw = self.raw or dumps(self.body)


@dataclass(slots=True)
class Summary:
    """The content of an answer. Token counts are None where the provider gave none; input includes cached tokens."""

    text: str = ""
    tool_calls: list[dict[str, str]] = field(default_factory=list)  # id, name, arguments
    finish_reason: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0  # read from the provider's cache
    written_tokens: int = 0  # written to it


class Reader(Protocol):
    """Follows a stream of one API."""

    at_end: bool  # the last event was the API's end mark

    def take(self, item: Event) -> bytes:
        """Return the bytes of an event that the client shall see. Raises CallError for an invalid event."""
        ...

    def finish(self) -> Summary:
        """Return the summary. Raises CallError when the stream was cut before its end."""
        ...


class Dialect(Protocol):
    """Describes one API: how its requests are normalised, its answers read and its errors written."""

    api: Api

    def prepare(self, body: Body, hosted: Hosted) -> Asked:
        """Normalise a request. Raises CallError (bad_request)."""
        ...

    def read(self, body: Any) -> Summary:
        """Summarise a whole answer. Raises CallError (malformed)."""
        ...

    def reader(self, request: Asked) -> Reader:
        """Return a reader for the request's stream."""
        ...

    def error(self, status: int, failed: Failed) -> Body:
        """Return the JSON of an error."""
        ...

    def error_event(self, status: int, failed: Failed) -> bytes:
        """Return the error as an event of a stream under way."""
        ...


def dumps(data: Any) -> bytes:
    """Return compact JSON; a lone surrogate, which UTF-8 cannot hold, is escaped."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return json.dumps(data, separators=(",", ":")).encode()


def loads(data: bytes) -> Any:
    """Parse a provider's JSON. Raises CallError (malformed), also for JSON nested too deeply."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Failed("malformed", f"the provider's answer is not JSON: {data[:80]!r}") from None


def text_id(value: Any) -> str | None:
    """Return a non-empty string of at most 200 characters, such as a question's id; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    return value[:_LONGEST_ID].encode(errors="replace").decode()  # lone surrogates cannot be written to a file


def count(value: Any) -> int | None:
    """Return a token count as an answer reports it; None for anything but a count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else None
