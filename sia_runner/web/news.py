"""Server-sent events: a message whenever something that a page shows has changed."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from sia_runner.web.watching import LEAST, NoRun, Watching

_PING = 15  # checks without a change after which a line is sent anyway, to notice a dead connection
_LISTENERS = 64


def events(app: FastAPI, watching: Watching) -> None:
    """Add the route of the events."""
    listeners: set[object] = set()

    @app.get("/api/events")
    async def listen(path: str = "") -> StreamingResponse:
        if len(listeners) >= _LISTENERS:
            raise HTTPException(503, "too many pages are open")
        me = object()
        listeners.add(me)

        async def stream() -> AsyncIterator[str]:
            try:
                async for line in news(watching, path):
                    yield line
            finally:
                listeners.discard(me)

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def news(watching: Watching, path: str) -> AsyncIterator[str]:
    """Yield an event whenever the run at `path` (empty: the list) changed; the page then asks for what it shows."""
    sent_revision, quiet = -1, 0
    while True:
        revision = await asyncio.to_thread(_revision, watching, path)
        if revision != sent_revision:
            sent_revision, quiet = revision, 0
            yield f"event: changed\ndata: {revision}\n\n"
        elif (quiet := quiet + 1) % _PING == 0:
            yield ": still here\n\n"
        await asyncio.sleep(LEAST)


def _revision(watching: Watching, path: str) -> int:
    if not path:
        watching.rows()
        return watching.revision
    try:
        with watching.open(path) as watched:
            return watched.revision
    except NoRun:
        return 0
