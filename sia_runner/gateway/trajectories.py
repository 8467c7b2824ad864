"""The file trajectories.jsonl: one line per finished call."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sia_runner.records import SampledCall
from sia_runner.wire.requests import Body, dumps

MAX_PART_BYTES = 256 << 10  # bytes kept of a request, and of a response
_CUT_MARK = "... [cut]"


@dataclass(slots=True)
class TokenUsage:
    """The tokens of the answered attempt; `estimated`: not the provider's own count."""

    input: int = 0
    output: int = 0
    cached: int = 0
    estimated: bool = False


@dataclass(slots=True)
class CallRecord:
    """One call as it is written. Times are in seconds; `usd` is None where prices are not known."""

    call: str
    at: float  # unix
    candidate: str
    purpose: str
    question: str | None
    sample: int | None
    api: str
    asked_model: str
    model: str | None = None  # as the provider named it
    request: Body | str = field(default_factory=dict)
    response: Body | str = field(default_factory=dict)  # text, tool_calls
    finish_reason: str | None = None
    usage: TokenUsage = field(default_factory=TokenUsage)
    usd: float | None = 0.0
    seconds: float = 0.0
    attempts: int = 0
    cached: bool = False  # answered from the runner's own cache
    sampled: SampledCall | None = None  # of a policy; "tokens" in the file
    error: dict[str, str] | None = None  # kind, message


def append_record(path: Path, record: CallRecord) -> None:
    """Append one whole line with a single write. Raises OSError."""
    rest = {name: getattr(record, name) for name in CallRecord.__slots__ if name not in ("request", "response")}
    sampled, error = rest.pop("sampled"), rest.pop("error")
    rest |= {"usage": asdict(record.usage), "tokens": sampled and sampled.to_json(), "error": error}
    parts = [b'"request":' + _encode_part(record.request), b'"response":' + _encode_part(record.response)]
    data = b",".join([dumps(rest)[:-1], *parts]) + b"}\n"
    stream = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        written = os.write(stream, data)
        if written < len(data):
            raise OSError(f"{path}: only {written} of {len(data)} bytes written")
    finally:
        os.close(stream)


def _encode_part(part: Body | str) -> bytes:
    """Return the part's JSON where that is small, else its beginning as a marked text."""
    try:
        encoded = dumps(part)
    except RecursionError:
        return b'"[nested too deeply]"'
    return (
        encoded
        if len(encoded) <= MAX_PART_BYTES
        else dumps(encoded[:MAX_PART_BYTES].decode(errors="ignore") + _CUT_MARK)
    )
