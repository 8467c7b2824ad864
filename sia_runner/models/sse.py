"""Server-sent events, as far as model APIs use them."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    raw: bytes  # unchanged, with its blank line
    data: bytes  # the joined data lines; empty for a comment


class Splitter:
    """Splits a stream into whole events. Linear in the stream's length, even for tiny pieces and long events."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0

    @property
    def cut(self) -> bool:
        """Tells whether an incomplete event remains."""
        return bool(self._rest.strip())

    def feed(self, piece: bytes) -> Iterator[Event]:
        """Yield the events that this piece completes."""
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
    """Return one event, ready to send."""
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n"
