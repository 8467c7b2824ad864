"""What a script may tell the server to do with one request. Times in seconds, sizes in bytes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Request:
    """One call that a client made. `messages` are in OpenAI's shape whatever was spoken; the original is `body`."""

    n: int  # 0, 1, 2, ... in order of arrival
    api: Literal["openai", "anthropic"]
    model: str
    messages: list[dict[str, Any]]  # role, content (text), and tool_calls or tool_call_id where there are any
    tools: tuple[str, ...]  # names
    body: dict[str, Any]
    headers: Mapping[str, str]  # names in lower case
    key: str
    size: int  # bytes of the body as it came

    @property
    def text(self) -> str:
        """All that was said to the model, one message after the other."""
        return "\n".join(message["content"] for message in self.messages)

    @property
    def last(self) -> str:
        return self.messages[-1]["content"] if self.messages else ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer. Tool arguments may be a string, which need not be JSON. Tokens not named are counted from
    bytes; text beyond the request's max_tokens is cut, as real providers do."""

    text: str = ""
    tool_calls: tuple[tuple[str, dict[str, Any] | str], ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0  # how many of the input tokens the provider had in its cache
    delay: float = 0.0  # before the first byte
    pause: float = 0.0  # between two chunks of a stream
    finish_reason: str | None = None  # in OpenAI's words
    chunks: int = 8  # pieces of the text in a stream
    reasoning: str = ""  # OpenAI's API only: DeepSeek's and Kimi's field beside the text


@dataclass(frozen=True, slots=True)
class Status:
    """An HTTP error in the protocol's own shape."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "no"
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset (RST): before a byte, or after so many chunks of a stream."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing is sent for so long, then the connection is reset."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Truncated:
    """An answer whose JSON is cut in the middle; a stream ends within an event and without its end mark."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Status 200 and a body (of a stream: one event, unless it comes `whole`) that is no answer."""

    body: str = '{"choices": [}, "content": <html>'
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Endless:
    """Text that never ends, in pieces; with no `pause`, as fast as it is read."""

    pause: float = 0.001


@dataclass(frozen=True, slots=True)
class Huge:
    """A well-formed answer whose text has so many bytes."""

    size: int


Reaction = Answer | Status | Reset | Hang | Truncated | Malformed | Endless | Huge
Script = Callable[[Request], "Reaction | Awaitable[Reaction]"]


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens of one answer. `input` includes `cached`."""

    input: int
    output: int
    cached: int


@dataclass(slots=True)
class Tally:
    """What a provider would bill: every request that reached a model endpoint, and the tokens of those answered."""

    calls: int = 0
    answered: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
