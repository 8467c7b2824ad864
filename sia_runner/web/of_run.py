"""The routes of one run."""

import json
from dataclasses import asdict
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query

from sia_runner.reading.files import text as read_text
from sia_runner.reading.harnesses import difference
from sia_runner.reading.logs import logs, tail
from sia_runner.web import shapes, texts
from sia_runner.web.reply import Reply
from sia_runner.web.watching import Watching

_SLICE = 0.25  # seconds of indexing per request
Start = Annotated[int, Query(ge=0)]
Limit = Annotated[int, Query(alias="most", ge=1, le=500)]
Number = Annotated[int, Query(ge=0, le=999_999)]
Folder = Annotated[str, Query(alias="place", pattern=r"^(test/)?gen_\d{1,6}$")]


def routes(app: FastAPI, watching: Watching) -> None:
    """Add the routes of a run, its generations, differences, curves and logs."""

    @app.get("/api/run")
    def run(path: str) -> Reply:
        with watching.open(path) as watched:
            return Reply(shapes.view(watched.run.view(), path))

    @app.get("/api/run/generation")
    def generation(path: str, n: Number) -> Reply:
        with watching.open(path) as watched:
            folder = watched.run.path
            candidate = next((candidate for candidate in watched.run.view().generations if candidate.n == n), None)
            if candidate is None:
                raise HTTPException(404, "no such generation")
            decision = json.dumps(watched.run.decision(n), ensure_ascii=False, indent=1)
        notes = read_text(folder, f"gen_{n}/improvement.md", 256 << 10) or ""
        sections = {"rationale": candidate.rationale, "improvement": notes, "decision": decision}
        return Reply({name: texts.text(text) for name, text in sections.items()})

    @app.get("/api/run/diff")
    def diff(path: str, new: Number, old: Number | None = None) -> Reply:
        with watching.open(path) as watched:
            folder = watched.run.path
        return Reply(texts.changes(difference(folder, old, new)))

    @app.get("/api/run/curves")
    def curves(path: str) -> Reply:
        with watching.open(path) as watched:
            return Reply({"generations": watched.run.curves()})

    @app.get("/api/run/logs")
    def log_list(path: str) -> Reply:
        with watching.open(path) as watched:
            folder = watched.run.path
        return Reply({"logs": [asdict(log) for log in logs(folder)]})

    @app.get("/api/run/log")
    def log(path: str, log: str, since: Start | None = None) -> Reply:
        with watching.open(path) as watched:
            folder = watched.run.path
        chunk = tail(folder, log, since)
        if chunk is None:
            raise HTTPException(404, "no such log")
        return Reply({"start": chunk.start, "end": chunk.end, "size": chunk.size, "text": texts.text(chunk.text)})


def answer_routes(app: FastAPI, watching: Watching) -> None:
    """Add the routes of questions and model calls."""

    @app.get("/api/run/questions")
    def questions(path: str, folder: Folder, kind: str = "", q: str = "", start: Start = 0, limit: Limit = 50) -> Reply:
        with watching.open(path) as watched:
            answers = watched.run.answers(folder)
            complete = answers.refresh(_SLICE)
            return Reply(texts.questions(answers, kind, q, start, limit, complete))

    @app.get("/api/run/calls")
    def calls(path: str, folder: Folder, number: Annotated[int, Query(ge=-1)]) -> Reply:
        with watching.open(path) as watched:
            answers = watched.run.answers(folder)
            answers.refresh(_SLICE)
            return Reply({"calls": [texts.call_line(at, answers.call(at, text=False)) for at in answers.calls(number)]})

    @app.get("/api/run/call")
    def call(path: str, folder: Folder, at: Start) -> Reply:
        with watching.open(path) as watched:
            answers = watched.run.answers(folder)
            answers.refresh(_SLICE)
            call_data = answers.call(at)
        if call_data is None:
            raise HTTPException(404, "no such call")
        return Reply(texts.call_line(at, call_data) | texts.call_text(call_data))
