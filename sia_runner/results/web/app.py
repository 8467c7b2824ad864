"""The routes of the dashboard: its page, scripts and styles, the runs, and server-sent events. All of them are GET."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from sia_runner.results.outputs import diff_harnesses, list_logs, read_tail
from sia_runner.results.questions import QuestionIndex
from sia_runner.results.web import data
from sia_runner.results.web.guard import App, Guard
from sia_runner.results.web.open_runs import REFRESH_SECONDS, OpenRuns, UnknownRunError
from sia_runner.store.files import as_dict, load_json, read_text


class _JsonReply(JSONResponse):
    """A JSON answer. Numbers that are not finite become null; a lone surrogate stays an escape."""

    def render(self, content: Any) -> bytes:
        """Return the bytes of the answer."""
        try:
            return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
        except ValueError:
            finite = json.loads(json.dumps(content), parse_constant=lambda _: None)
            return json.dumps(finite, separators=(",", ":")).encode()


_INDEX_SLICE_SECONDS = 0.25  # seconds of indexing per request
_FirstRow = Annotated[int, Query(ge=0)]
_RowLimit = Annotated[int, Query(alias="most", ge=1, le=500)]
_GenerationNumber = Annotated[int, Query(ge=0, le=999_999)]
_RunFolder = Annotated[str, Query(alias="place", pattern=r"^(test/)?gen_\d{1,6}$")]


def _add_run_routes(app: FastAPI, watching: OpenRuns) -> None:
    def folder_of(path: str) -> Path:
        with watching.open(path) as watched:
            return watched.run.path

    @app.get("/api/run")
    def run(path: str) -> _JsonReply:
        with watching.open(path) as watched:
            return _JsonReply(data.run_page(watched.run, path))

    @app.get("/api/run/generation")
    def generation(path: str, n: _GenerationNumber) -> _JsonReply:
        with watching.open(path) as watched:
            folder, generations = watched.run.path, watched.run.generations
        if not (candidate := next((candidate for candidate in generations if candidate.n == n), None)):
            raise HTTPException(404, "no such generation")
        choices = as_dict(load_json(folder, f"gen_{n}/decision.json", 1 << 20))
        decision = json.dumps(choices, ensure_ascii=False, indent=1)
        notes = read_text(folder, f"gen_{n}/improvement.md", 256 << 10) or ""
        sections = {"rationale": candidate.rationale, "improvement": notes, "decision": decision}
        return _JsonReply({name: data.bounded_text(text) for name, text in sections.items()})

    @app.get("/api/run/diff")
    def diff(path: str, new: _GenerationNumber, old: _GenerationNumber | None = None) -> _JsonReply:
        return _JsonReply(data.diff_page(diff_harnesses(folder_of(path), old, new)))

    @app.get("/api/run/curves")
    def curves(path: str) -> _JsonReply:
        with watching.open(path) as watched:
            return _JsonReply({"generations": watched.run.curves()})

    @app.get("/api/run/logs")
    def log_list(path: str) -> _JsonReply:
        logs = list_logs(folder_of(path))
        return _JsonReply({"logs": [{"path": path, "size": size} for path, size in logs.items()]})

    @app.get("/api/run/log")
    def log(path: str, log: str, since: _FirstRow | None = None) -> _JsonReply:
        if (chunk := read_tail(folder_of(path), log, since)) is None:
            raise HTTPException(404, "no such log")
        position = {"start": chunk.start, "end": chunk.end, "size": chunk.size}
        return _JsonReply(position | {"text": data.bounded_text(chunk.text)})


def _add_question_routes(app: FastAPI, watching: OpenRuns) -> None:
    @contextmanager
    def indexed(path: str, folder: str) -> Iterator[tuple[QuestionIndex, bool]]:
        """Lend the index of a folder, and whether it is complete."""
        with watching.open(path) as watched:
            answers = watched.run.answers(folder)
            yield answers, answers.refresh(_INDEX_SLICE_SECONDS)

    @app.get("/api/run/questions")
    def questions(
        path: str, folder: _RunFolder, kind: str = "", q: str = "", start: _FirstRow = 0, limit: _RowLimit = 50
    ) -> _JsonReply:
        with indexed(path, folder) as (answers, complete):
            return _JsonReply(data.question_page(answers, kind, q, start, limit, complete))

    @app.get("/api/run/calls")
    def calls(path: str, folder: _RunFolder, number: Annotated[int, Query(ge=-1)]) -> _JsonReply:
        with indexed(path, folder) as (answers, _):
            lines = [data.call_line(at, answers.call(at, text=False)) for at in answers.calls(number)]
        return _JsonReply({"calls": lines})

    @app.get("/api/run/call")
    def call(path: str, folder: _RunFolder, at: _FirstRow) -> _JsonReply:
        with indexed(path, folder) as (answers, _):
            call_data = answers.call(at)
        if call_data is None:
            raise HTTPException(404, "no such call")
        return _JsonReply(data.call_line(at, call_data) | data.call_text(call_data))


_PING_AFTER = 15  # checks without a change after which a line is sent anyway, to notice a dead connection
_MAX_LISTENERS = 64


def _add_event_route(app: FastAPI, watching: OpenRuns) -> None:
    listeners: set[object] = set()

    @app.get("/api/events")
    async def listen(path: str = "") -> StreamingResponse:
        if len(listeners) >= _MAX_LISTENERS:
            raise HTTPException(503, "too many pages are open")
        me = object()
        listeners.add(me)

        async def stream() -> AsyncIterator[str]:
            try:
                async for line in change_events(watching, path):
                    yield line
            finally:
                listeners.discard(me)

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def change_events(watching: OpenRuns, path: str) -> AsyncIterator[str]:
    """Yield an event whenever the run at `path` (empty: the list) changed; the page then asks for what it shows."""
    sent_revision, quiet = -1, 0
    while True:
        revision = await asyncio.to_thread(_revision, watching, path)
        if revision != sent_revision:
            sent_revision, quiet = revision, 0
            yield f"event: changed\ndata: {revision}\n\n"
        elif (quiet := quiet + 1) % _PING_AFTER == 0:
            yield ": still here\n\n"
        await asyncio.sleep(REFRESH_SECONDS)


def _revision(watching: OpenRuns, path: str) -> int:
    if not path:
        watching.rows()
        return watching.revision
    with suppress(UnknownRunError), watching.open(path) as watched:
        return watched.revision
    return 0


_STATIC = Path(__file__).with_name("static")
_MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def dashboard(root: Path, host: str, token: str, allowed_hosts: Collection[str], root_path: str) -> App:
    """Return the ASGI application for the runs below `root`. Further arguments: see `Guard`."""
    app = FastAPI(title="SIA Runner", docs_url=None, redoc_url=None, openapi_url=None)
    watching = OpenRuns(root)
    # from memory: a page asks for some twenty small files at once
    files = {path.name: path.read_bytes() for path in _STATIC.iterdir() if path.suffix in _MEDIA_TYPES}

    @app.get("/")
    async def page() -> Response:
        return Response(files["index.html"], media_type=_MEDIA_TYPES[".html"])

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file")
        return Response(files[name], media_type=_MEDIA_TYPES[Path(name).suffix])

    @app.get("/api/runs")
    def runs(request: Request, start: _FirstRow = 0, limit: _RowLimit = 100) -> _JsonReply:
        rows = data.run_list(watching.rows(), request.query_params, start, limit)
        return _JsonReply(rows | {"whole": watching.complete})

    @app.exception_handler(UnknownRunError)
    async def _no_run(request: Request, error: UnknownRunError) -> Any:  # pyright: ignore[reportUnusedFunction]
        return _JsonReply({"detail": "There is no run at this address."}, 404)

    _add_run_routes(app, watching)
    _add_question_routes(app, watching)
    _add_event_route(app, watching)
    return Guard(app, host, token, allowed_hosts, root_path)
