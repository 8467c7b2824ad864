"""What the pages get: plain data, every text bounded and without control characters. Nothing is markup here: pages put
it into the document as text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sia_runner.plaintext import cut, one_line, plain
from sia_runner.reading.answers import Answers, Question
from sia_runner.reading.generations import Generation
from sia_runner.reading.harnesses import Change
from sia_runner.reading.index import Row
from sia_runner.reading.run import View

Json = dict[str, Any]
LINES = 4_000  # of a diff
_TEXT = 600 << 10  # bytes of one text: more than is kept of a request
_MESSAGES = 200


def runs(rows: Sequence[Row], asked: Mapping[str, str], start: int, most: int) -> Json:
    """Rows that fit `asked` (q: words that a row's texts hold; status, task, mode), and what there is to choose."""
    words = asked.get("q", "").lower().split()
    fit = [row for row in rows if _fits(row, asked) and all(word in _texts(row) for word in words)]
    choices = {key: sorted({getattr(row, key) for row in rows} - {""}) for key in ("status", "task", "mode")}
    return {
        "total": len(rows),
        "found": len(fit),
        "start": start,
        "rows": [_row(row) for row in fit[start : start + most]],
        "choices": choices,
    }


def view(of: View, path: str) -> Json:
    higher = metric(of).get("higher_is_better") is not False
    return {
        "path": path,
        "name": one_line(of.path.name),
        "folder": plain(str(of.path)),
        "status": of.status,
        "task": one_line(of.task),
        "mode": one_line(of.mode),
        "seed": of.config.get("seed") if isinstance(of.config.get("seed"), int) else None,
        "max_gen": of.config.get("max_gen"),
        "metric": one_line(str(metric(of).get("name", "score"))),
        "higher_is_better": higher,
        "generations": [generation(one, of.spent) for one in of.generations],
        "tests": of.tests,
        "best": of.best,
        "stopped": one_line(of.stopped, 500),
        "limits": of.limits,
        "spent": {key: of.spent.get(key) for key in ("total", "purposes", "in_flight")},
        "minutes": round(of.minutes, 2),
        "jobs": [{key: one_line(value) for key, value in job.items()} for job in of.jobs[:200]],
        "holder": {
            key: one_line(str(value)) for key, value in (of.holder or {}).items() if key in ("host", "pid", "job")
        },
        "resume": plain(of.resume),
        "fault": one_line(of.fault),
    }


def metric(of: View) -> Json:
    """From the summary; before the first verdict from the configuration."""
    found = of.summary.get("metric")
    if isinstance(found, dict):
        return found
    task = of.config.get("task")
    declared = task.get("metric") if isinstance(task, dict) else None
    return declared if isinstance(declared, dict) else {"name": declared} if isinstance(declared, str) else {}


def generation(one: Generation, spent: Mapping[str, Any]) -> Json:
    """Small: there may be thousands. What it says at length, `details` has."""
    kept: Json = asdict(one) | {"title": one_line(one.title, 160), "reason": one_line(one.reason, 300)}
    kept.pop("rationale")
    kept["training"] = one.training and {key: one.training.get(key) for key in ("asked", "steps", "stopped")}
    kept |= {key: one_line(str(kept[key] or ""), 60) for key in ("lever", "algorithm", "status", "step")}
    return kept | {"usage": spent.get("generations", {}).get(one.n)}


def question(one: Question) -> Json:
    return asdict(one) | {"unit": one_line(one.unit, 300), "prediction": cut(plain(one.prediction), 2_000)}


def questions(of: Answers, kind: str, search: str, start: int, most: int, whole: bool) -> Json:
    done, size = of.progress
    total, chosen = of.questions(kind, search, start, most)
    read = {"whole": whole, "bytes": done, "size": size}
    return {
        "kinds": of.kinds(),
        "total": total,
        "start": start,
        "rows": [question(one) for one in chosen],
        "read": read,
    }


def call_line(number: int, call: Mapping[str, Any] | None) -> Json:
    """One line of a list of calls."""
    call = call or {}
    usage: Any = call.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    error = call.get("error")
    return {
        "at": number,
        "model": one_line(str(call.get("model") or call.get("asked_model") or "")),
        "finish": one_line(str(call.get("finish_reason") or "")),
        "seconds": call.get("seconds") if isinstance(call.get("seconds"), int | float) else None,
        "tokens": [usage.get(key) if isinstance(usage.get(key), int) else None for key in ("input", "output")],
        "error": one_line(str(error.get("message", "")) if isinstance(error, dict) else "", 500),
    }


def call_text(call: Mapping[str, Any]) -> Json:
    """What was asked and answered, in full: ``{"messages": [{"role", "text"}], …}``."""
    asked, answered = call.get("request"), call.get("response")
    messages = _messages(asked) if isinstance(asked, dict) else [{"role": "request", "text": _text(asked)}]
    response = answered if isinstance(answered, dict) else {"text": answered}
    messages.append({"role": "answer", "text": _text(response.get("text"))})
    if tools := response.get("tool_calls"):
        messages.append({"role": "tool calls", "text": _text(tools)})
    return {"messages": messages}


def changes(found: Sequence[Change]) -> Json:
    shown, left = [], LINES
    for one in found:
        lines = [plain(line)[:2_000] for line in one.lines[:left]]
        shown.append(asdict(one) | {"path": one_line(one.path), "lines": lines, "cut": len(one.lines) - len(lines)})
        left -= len(lines)
    return {"files": shown}


def text(value: str, most: int = _TEXT) -> str:
    return cut(plain(value), most)


def _messages(request: Mapping[str, Any]) -> list[Json]:
    given = request.get("messages") or request.get("input") or request.get("prompt")
    found = [{"role": "system", "text": _text(request["system"])}] if request.get("system") else []
    if not isinstance(given, list):
        return [*found, {"role": "request", "text": _text(given if given is not None else dict(request))}]
    for one in given[:_MESSAGES]:
        whole = not isinstance(one, dict) or set(one) - {"role", "content"}
        said = one if whole else one.get("content", "")
        role = one.get("role", "message") if isinstance(one, dict) else "message"
        found.append({"role": one_line(str(role), 40), "text": _text(said)})
    return found


def _text(value: Any) -> str:
    import json

    return text(
        value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False, indent=1)
    )


def _fits(row: Row, asked: Mapping[str, str]) -> bool:
    return all(not asked.get(key) or getattr(row, key) == asked[key] for key in ("status", "task", "mode"))


def _texts(row: Row) -> str:
    return f"{row.path} {row.task} {row.mode} {row.status} seed={row.seed} {row.stopped} {row.host}".lower()


def _row(row: Row) -> Json:
    texts = ("name", "status", "task", "mode", "sweep", "metric", "stopped", "host")
    return asdict(row) | {key: one_line(getattr(row, key)) for key in texts}
