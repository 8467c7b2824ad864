"""The routes of the dashboard: its page, scripts and styles, and the list of runs. All of them are GET."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response

from sia_runner.web import shapes
from sia_runner.web.guard import App, Guard
from sia_runner.web.news import events
from sia_runner.web.of_run import Limit, Start, answer_routes, routes
from sia_runner.web.reply import Reply
from sia_runner.web.watching import NoRun, Watching

STATIC = Path(__file__).with_name("static")
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def dashboard(root: Path, host: str = "127.0.0.1", token: str = "") -> App:
    """Return the ASGI application for the runs below `root`."""
    app = FastAPI(title="SIA Runner", docs_url=None, redoc_url=None, openapi_url=None)
    watching = Watching(root)
    _pages(app)
    _lists(app, watching)
    routes(app, watching)
    answer_routes(app, watching)
    events(app, watching)

    @app.exception_handler(NoRun)
    async def _no_run(request: Request, error: NoRun) -> Any:  # pyright: ignore[reportUnusedFunction]
        return Reply({"detail": "There is no run at this address."}, 404)

    return Guard(app, host, token)


def _pages(app: FastAPI) -> None:
    """Serve the static files from memory: a page asks for some twenty small files at once."""
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
        limit: Limit = 100,
    ) -> Reply:
        filters = {"q": q, "status": status, "task": task, "mode": mode, "order": order}
        return Reply(shapes.runs(watching.rows(), filters, start, limit) | {"whole": watching.complete})
