"""An answer on its way to the client: read, counted, and passed on in whole events."""

from collections.abc import Awaitable, Callable

from sia_runner.models.failures import Failed
from sia_runner.models.sse import Splitter
from sia_runner.models.wire import Asked, Dialect, Summary, loads

Emit = Callable[[bytes], Awaitable[None]]


class Intake:
    """Passes an answer on to the client as it arrives, except for its end.

    The end (an answer that is not streamed is all end) waits for `flush`, after the call is settled and recorded:
    a client that leaves once it has its answer cannot interrupt that.
    """

    def __init__(self, dialect: Dialect, request: Asked, emit: Emit, *, keep: bool) -> None:
        self._dialect, self._emit = dialect, emit
        self._reader = dialect.reader(request) if request.stream else None
        self._splitter = Splitter()
        self._end: list[bytes] = []
        self._retained: list[bytes] | None = [] if keep else None
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

    def finish(self) -> Summary:
        """Return the answer's summary. Raises CallError (malformed) for an incomplete or invalid answer."""
        if self._reader is None:
            return self._dialect.read(loads(b"".join(self._end)))
        return self._reader.finish()

    async def go_on(self, data: bytes, emit: Emit) -> None:
        """Send `data` to `emit`, and everything that follows."""
        self._emit = emit
        if data:
            await self._send(data)

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
            raise Failed("cancelled", "the client is gone") from error
        self.emitted, self.emitting = True, False
