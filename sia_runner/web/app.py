"""The routes: a page that is one file, its scripts and styles, and what they ask for. All of it GET."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import Response

from sia_runner.web import news, of_run, shapes
from sia_runner.web.guard import App, Guard
from sia_runner.web.reply import Reply
from sia_runner.web.watching import NoRun, Watching

STATIC = Path(__file__).with_name("static")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
Start = Annotated[int, Query(ge=0)]
Most = Annotated[int, Query(ge=1, le=500)]


def dashboard(root: Path, host: str = "127.0.0.1", token: str = "") -> App:
    """The ASGI application for the runs below `root`."""
    app = FastAPI(title="SIA Runner", docs_url=None, redoc_url=None, openapi_url=None)
    watching = Watching(root)
    _pages(app)
    _lists(app, watching)
    of_run.routes(app, watching)
    of_run.answer_routes(app, watching)
    news.events(app, watching)

    @app.exception_handler(NoRun)
    async def _no_run(request: Request, error: NoRun) -> Any:  # pyright: ignore[reportUnusedFunction]
        return Reply({"detail": "There is no run at this address."}, 404)

    return Guard(app, host, token)


def _pages(app: FastAPI) -> None:
    """From memory: a page asks for some twenty small files at once."""
    files = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in _TYPES}

    @app.get("/")
    async def page() -> Response:
        return Response(files["index.html"], media_type=_TYPES[".html"])

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file")
        return Response(files[name], media_type=_TYPES[Path(name).suffix])


def _lists(app: FastAPI, watching: Watching) -> None:
    @app.get("/api/runs")
    def runs(
        q: str = "",
        status: str = "",
        task: str = "",
        mode: str = "",
        order: str = "",
        start: Start = 0,
        most: Most = 100,
    ) -> Reply:
        asked = {"q": q, "status": status, "task": task, "mode": mode, "order": order}
        return Reply(shapes.runs(watching.rows(), asked, start, most) | {"whole": watching.whole})
