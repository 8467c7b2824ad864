"""The routes of one run."""

import json
from dataclasses import asdict
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query

from sia_runner.reading import harnesses, logs
from sia_runner.reading.files import text as read_text
from sia_runner.web import shapes, texts
from sia_runner.web.reply import Reply
from sia_runner.web.watching import Watching

_SLICE = 0.25  # seconds that one request reads on an index of questions
Start = Annotated[int, Query(ge=0)]
Most = Annotated[int, Query(ge=1, le=500)]
Number = Annotated[int, Query(ge=0, le=999_999)]
Place = Annotated[str, Query(pattern=r"^(test/)?gen_\d{1,6}$")]


def routes(app: FastAPI, watching: Watching) -> None:
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
        return Reply({name: texts.text(text) for name, text in said.items()})

    @app.get("/api/run/diff")
    def diff(path: str, new: Number, old: Number | None = None) -> Reply:
        with watching.open(path) as watched:
            folder = watched.run.path
        return Reply(texts.changes(harnesses.difference(folder, old, new)))

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
        return Reply({"start": found.start, "end": found.end, "size": found.size, "text": texts.text(found.text)})


def answer_routes(app: FastAPI, watching: Watching) -> None:
    @app.get("/api/run/questions")
    def questions(path: str, place: Place, kind: str = "", q: str = "", start: Start = 0, most: Most = 50) -> Reply:
        with watching.open(path) as watched:
            answers = watched.run.answers(place)
            whole = answers.refresh(_SLICE)
            return Reply(texts.questions(answers, kind, q, start, most, whole))

    @app.get("/api/run/calls")
    def calls(path: str, place: Place, number: Annotated[int, Query(ge=-1)]) -> Reply:
        with watching.open(path) as watched:
            answers = watched.run.answers(place)
            answers.refresh(_SLICE)
            return Reply({"calls": [texts.call_line(at, answers.call(at, text=False)) for at in answers.calls(number)]})

    @app.get("/api/run/call")
    def call(path: str, place: Place, at: Start) -> Reply:
        with watching.open(path) as watched:
            answers = watched.run.answers(place)
            answers.refresh(_SLICE)
            found = answers.call(at)
        if found is None:
            raise HTTPException(404, "no such call")
        return Reply(texts.call_line(at, found) | texts.call_text(found))
