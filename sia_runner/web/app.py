"""The routes: a page that is one file, its scripts and styles, and what they ask for. All of it GET."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, StreamingResponse
from starlette.staticfiles import StaticFiles

from sia_runner.reading import harnesses, logs
from sia_runner.reading.files import text as read_text
from sia_runner.web import shapes
from sia_runner.web.guard import App, Guard
from sia_runner.web.reply import Reply
from sia_runner.web.watching import LEAST, NoRun, Watching

STATIC = Path(__file__).with_name("static")
_PING = 15  # looks without news after which a line is sent all the same, so that a dead connection is noticed
_LISTENERS = 64
_SLICE = 0.25  # seconds that one request reads on an index of questions
_PLACE = r"^(test/)?gen_\d{1,6}$"
Start = Annotated[int, Query(ge=0)]
Most = Annotated[int, Query(ge=1, le=500)]
Number = Annotated[int, Query(ge=0, le=999_999)]
Place = Annotated[str, Query(pattern=_PLACE)]


def dashboard(root: Path, host: str = "127.0.0.1", token: str = "") -> App:
    """The ASGI application for the runs below `root`."""
    app = FastAPI(title="SIA Runner", docs_url=None, redoc_url=None, openapi_url=None)
    watching = Watching(root)
    _pages(app)
    _lists(app, watching)
    _of_run(app, watching)
    _of_answers(app, watching)
    _events(app, watching)

    @app.exception_handler(NoRun)
    async def _no_run(request: Request, error: NoRun) -> Any:  # pyright: ignore[reportUnusedFunction]
        return Reply({"detail": "no such run"}, 404)

    return Guard(app, host, token)


def _pages(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")


def _lists(app: FastAPI, watching: Watching) -> None:
    @app.get("/api/runs")
    def runs(
        q: str = "", status: str = "", task: str = "", mode: str = "", start: Start = 0, most: Most = 100
    ) -> Reply:
        asked = {"q": q, "status": status, "task": task, "mode": mode}
        return Reply(shapes.runs(watching.rows(), asked, start, most))


def _of_run(app: FastAPI, watching: Watching) -> None:
    @app.get("/api/run")
    def run(path: str) -> Reply:
        with watching.open(path) as watched:
            return Reply(shapes.view(watched.run.view(), path))

    @app.get("/api/run/generation")
    def generation(path: str, n: Number) -> Reply:
        with watching.open(path) as watched:
            folder = watched.run.path
            one = next((one for one in watched.run.view().generations if one.n == n), None)
            if one is None:
                raise HTTPException(404, "no such generation")
            decision = json.dumps(watched.run.decision(n), ensure_ascii=False, indent=1)
        notes = read_text(folder, f"gen_{n}/improvement.md", 256 << 10) or ""
        said = {"rationale": one.rationale, "improvement": notes, "decision": decision}
        return Reply({name: shapes.text(text) for name, text in said.items()})

    @app.get("/api/run/diff")
    def diff(path: str, new: Number, old: Number | None = None) -> Reply:
        with watching.open(path) as watched:
            folder = watched.run.path
        return Reply(shapes.changes(harnesses.difference(folder, old, new)))

    @app.get("/api/run/curves")
    def curves(path: str) -> Reply:
        with watching.open(path) as watched:
            return Reply({"generations": watched.run.curves()})

    @app.get("/api/run/logs")
    def log_list(path: str) -> Reply:
        with watching.open(path) as watched:
            folder = watched.run.path
        return Reply({"logs": [asdict(log) for log in logs.logs(folder)]})

    @app.get("/api/run/log")
    def log(path: str, log: str, since: Start | None = None) -> Reply:
        with watching.open(path) as watched:
            folder = watched.run.path
        found = logs.tail(folder, log, since)
        if found is None:
            raise HTTPException(404, "no such log")
        return Reply({"start": found.start, "end": found.end, "size": found.size, "text": shapes.text(found.text)})


def _of_answers(app: FastAPI, watching: Watching) -> None:
    @app.get("/api/run/questions")
    def questions(path: str, place: Place, kind: str = "", q: str = "", start: Start = 0, most: Most = 50) -> Reply:
        with watching.open(path) as watched:
            answers = watched.run.answers(place)
            whole = answers.refresh(_SLICE)
            return Reply(shapes.questions(answers, kind, q, start, most, whole))

    @app.get("/api/run/calls")
    def calls(path: str, place: Place, number: Annotated[int, Query(ge=-1)]) -> Reply:
        with watching.open(path) as watched:
            answers = watched.run.answers(place)
            answers.refresh(_SLICE)
            return Reply(
                {"calls": [shapes.call_line(at, answers.call(at, text=False)) for at in answers.calls(number)]}
            )

    @app.get("/api/run/call")
    def call(path: str, place: Place, at: Start) -> Reply:
        with watching.open(path) as watched:
            answers = watched.run.answers(place)
            answers.refresh(_SLICE)
            found = answers.call(at)
        if found is None:
            raise HTTPException(404, "no such call")
        return Reply(shapes.call_line(at, found) | shapes.call_text(found))


def _events(app: FastAPI, watching: Watching) -> None:
    listeners: set[object] = set()

    @app.get("/api/events")
    async def events(path: str = "") -> StreamingResponse:
        if len(listeners) >= _LISTENERS:
            raise HTTPException(503, "too many pages are open")
        me = object()
        listeners.add(me)

        async def stream() -> AsyncIterator[str]:
            try:
                async for line in _news(watching, path):
                    yield line
            finally:
                listeners.discard(me)

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _news(watching: Watching, path: str) -> AsyncIterator[str]:
    """A line whenever what is looked at changed: the page asks for what it shows."""
    seen, quiet = -1, 0
    while True:
        now = await asyncio.to_thread(_revision, watching, path)
        if now != seen:
            seen, quiet = now, 0
            yield f"event: changed\ndata: {now}\n\n"
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
