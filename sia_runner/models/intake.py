"""An answer on its way to the client: read, counted, and handed on in whole events."""

from collections.abc import Awaitable, Callable

from sia_runner.models.failures import Failed
from sia_runner.models.sse import Splitter
from sia_runner.models.wire import Asked, Dialect, Summary, loads

Emit = Callable[[bytes], Awaitable[None]]


class Intake:
    """What ends an answer (a whole one is all end) is kept back until `flush`: first it is settled and recorded, so
    that a client that leaves with its answer leaves no loose ends."""

    def __init__(self, dialect: Dialect, asked: Asked, emit: Emit, *, keep: bool) -> None:
        self._dialect, self._emit = dialect, emit
        self._reader = dialect.reader(asked) if asked.stream else None
        self._splitter = Splitter()
        self._end: list[bytes] = []
        self._kept: list[bytes] | None = [] if keep else None
        self.emitted = False  # the client has bytes: no other attempt can be made
        self.emitting = False

    async def take(self, piece: bytes) -> None:
        if self._reader is None:
            self._end.append(piece)
            return
        shown = []
        for event in self._splitter.feed(piece):
            seen = self._reader.take(event)
            (self._end if self._reader.ended else shown).append(seen)
        if data := b"".join(shown):
            if self._kept is not None:
                self._kept.append(data)
            await self._send(data)

    def finish(self) -> Summary:
        """Raises Failed (malformed) for what is no answer, or half of one."""
        if self._reader is None:
            return self._dialect.read(loads(b"".join(self._end)))
        return self._reader.finish()

    async def go_on(self, data: bytes, emit: Emit) -> None:
        """`data`, and what follows, goes to `emit`."""
        self._emit = emit
        if data:
            await self._send(data)

    async def flush(self) -> None:
        await self._send(b"".join(self._end))

    def kept(self) -> bytes:
        """All that the client gets."""
        return b"".join([*(self._kept or ()), *self._end])

    async def _send(self, data: bytes) -> None:
        self.emitting = True
        try:
            await self._emit(data)
        except (ConnectionError, RuntimeError) as error:
            raise Failed("cancelled", "the client is gone") from error
        self.emitted, self.emitting = True, False
