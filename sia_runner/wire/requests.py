"""Model requests and answers as data, and what both APIs share: checks of a body, token bounds, server-sent events."""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sia_runner.records import SampledCall
from sia_runner.wire.failures import CallError
from sia_runner.wire.grants import Grant

MAX_ANSWER_BYTES = 16 << 20  # bytes of a provider's answer
MAX_OUTPUT_TOKENS = 131_072  # tokens; the maximum of any request
_MAX_HEAD_BYTES = 64 << 10
_MAX_ID_CHARS = 200  # characters of a question's id
Api = Literal["openai", "anthropic"]
Body = dict[str, Any]
Objects = Sequence[Mapping[str, Any]]  # of JSON
TokenDecoder = Callable[[Sequence[int]], str]
# Fields by which a harness could leave its sandbox or have another model answer.
_REFUSED_FIELDS = {
    "mcp_servers": "it would reach other servers",
    "web_search_options": "it would search the web",
    "plugins": "they would reach other servers",
    "container": "it would run code elsewhere",
    **dict.fromkeys(("models", "fallbacks"), "the experiment names the model"),
}


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One server-sent event."""

    raw: bytes  # unchanged, with its blank line
    data: bytes  # the joined data lines; empty for a comment


class SseSplitter:
    """Splits a stream into whole events. Linear in the stream's length, even for tiny pieces and long events."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0
        self._head: bytearray | None = bytearray()  # the beginning; None once there was an event with data

    def feed(self, piece: bytes) -> Iterator[SseEvent]:
        """Yield the events that this piece completes."""
        if self._head is not None:
            self._head += piece[: _MAX_HEAD_BYTES - len(self._head)]
        self._rest += piece.replace(b"\r", b"")  # line ends may be \r\n; JSON has no bare \r
        start = 0
        while (end := self._rest.find(b"\n\n", max(start, self._searched))) >= 0:
            raw = bytes(self._rest[start : end + 2])
            start = end + 2
            lines = [line[5:].removeprefix(b" ") for line in raw.split(b"\n") if line.startswith(b"data:")]
            self._head = None if lines else self._head
            yield SseEvent(raw, b"\n".join(lines))
        del self._rest[:start]
        self._searched = max(0, len(self._rest) - 1)

    def other_content(self) -> bytes:
        """Return the beginning of what is no stream at all, such as an error's JSON; empty for a stream."""
        head = bytes(self._head or b"").strip()
        return b"" if re.match(rb":|data|event|id|retry", head) else head


def sse_event(data: bytes, name: str | None = None) -> bytes:
    """Return one event, ready to send."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n"


@dataclass(slots=True)
class ModelRequest:
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
    notice: str = ""  # what became of it on its way, for the user
    turn: int = 0  # number of earlier calls of this session for the same question

    def __post_init__(self) -> None:
        self.raw = self.raw or dumps(self.body)


@dataclass(slots=True)
class AnswerSummary:
    """The content of an answer. Token counts are None where the provider gave none; input includes cached tokens."""

    text: str = ""
    tool_calls: list[dict[str, str]] = field(default_factory=list)  # id, name, arguments
    finish_reason: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0  # read from the provider's cache
    written_tokens: int = 0  # written to it
    sampled: SampledCall | None = None  # of a policy
    reasoning: str = ""  # thinking that the provider shows beside the answer


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
        raise CallError("malformed", f"the provider's answer is not JSON: {data[:80]!r}") from None


def short_text(value: Any) -> str | None:
    """Return a non-empty string of at most 200 characters, such as a question's id; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    return value[:_MAX_ID_CHARS].encode(errors="replace").decode()  # lone surrogates cannot be written to a file


def token_count(value: Any) -> int | None:
    """Return a token count as an answer reports it; None for anything but a count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else None


def bad_request(message: str) -> CallError:
    """Return the error for a request that is refused here, before it is sent."""
    return CallError("bad_request", message, status=400, sent=False)


def check_body(body: Body, client_tools: tuple[str, ...]) -> None:
    """Refuse what is no conversation, would leave the sandbox or choose another model. Raises CallError (bad_request).

    `client_tools`: how the types of tools that the client itself runs begin; the provider would run any other.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise bad_request("messages must be a list of at least one object")
    for part in (part for message in messages for part in _content_parts(message.get("content"))):
        for reference in (part.get("image_url"), part.get("source"), part.get("file"), part.get("video_url")):
            fields = reference if isinstance(reference, dict) else {"url": reference}
            url = fields.get("url")  # the provider or litellm would fetch it
            if fields.get("file_id") or (url is not None and not str(url).startswith("data:")):
                raise bad_request("pictures and files must be sent as data, not as an address")
    for name, why in _REFUSED_FIELDS.items():
        if body.get(name):
            raise bad_request(f"{name} is not served here: {why}")
    if body.get("service_tier") == "priority":
        raise bad_request("service_tier=priority is not served here: it has prices of its own")
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise bad_request("tools must be a list")
    for tool in tools or ():
        kind = tool.get("type", "custom") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or not kind.startswith(client_tools):
            raise bad_request(f"tools of type {kind!r} are not served here, only those that the client runs itself")


def _content_parts(content: Any) -> Iterable[Body]:
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict):
            yield part
            yield from _content_parts(part.get("content"))  # inside a tool's result


def completion_bound(body: Body, name: str) -> int | None:
    """Return a completion bound as the request names it, at most MAX_OUTPUT_TOKENS. Raises CallError."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise bad_request(f"{name} must be a whole number above 0")
    return min(value, MAX_OUTPUT_TOKENS)


def boolean_field(body: Body, name: str) -> bool:
    """Return a field that must be true, false or absent. Raises CallError."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_request(f"{name} must be true or false")
    return bool(value)


def token_bound(body: bytes) -> int:
    """Return an upper bound of a request's tokens: text has three or four bytes a token, Chinese two or more."""
    return len(body) // 2 + 64


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text: four ASCII characters each, one for any other character."""
    ascii_only = len(text.encode("ascii", "ignore"))
    return math.ceil(ascii_only / 4) + len(text) - ascii_only
