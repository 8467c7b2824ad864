"""Server-sent events, as far as model APIs use them."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    raw: bytes  # as it came, its blank line included
    data: bytes  # of its data lines; empty for a comment


class Splitter:
    """Whole events from pieces of a stream. What is left at its end was cut. Linear in the stream's length, however
    small the pieces and long the events."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0

    @property
    def cut(self) -> bool:
        return bool(self._rest.strip())

    def feed(self, piece: bytes) -> Iterator[Event]:
        self._rest += piece.replace(b"\r", b"")  # line ends may be \r\n; JSON has no bare \r
        start = 0
        while (end := self._rest.find(b"\n\n", max(start, self._searched))) >= 0:
            raw = bytes(self._rest[start : end + 2])
            start = end + 2
            yield Event(raw, _data(raw))
        del self._rest[:start]
        self._searched = max(0, len(self._rest) - 1)


def _data(raw: bytes) -> bytes:
    lines = [line[5:].removeprefix(b" ") for line in raw.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def event(data: bytes, name: str | None = None) -> bytes:
    """One event, ready to send."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n"
