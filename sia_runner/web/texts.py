"""The long data of the pages: questions, calls and differences. Texts are bounded and have no control characters."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sia_runner.ground.plaintext import cut, one_line, plain
from sia_runner.reading.answers import Answers
from sia_runner.reading.harnesses import Change
from sia_runner.reading.questions import Question
from sia_runner.web.shapes import Json

LINES = 4_000  # of a diff
_TEXT = 600 << 10  # bytes of one text: more than a trajectory stores of a request
_MESSAGES = 200


def question(entry: Question) -> Json:
    """Return one question."""
    return asdict(entry) | {"unit": one_line(entry.unit, 300), "prediction": cut(plain(entry.prediction), 2_000)}


def questions(answers: Answers, kind: str, search: str, start: int, limit: int, complete: bool) -> Json:
    """Return a page of questions, with the progress of the index."""
    done, size = answers.progress
    total, chosen = answers.questions(kind, search, start, limit)
    read = {"whole": complete, "bytes": done, "size": size}
    return {
        "kinds": answers.kinds(),
        "total": total,
        "start": start,
        "rows": [question(entry) for entry in chosen],
        "read": read,
    }


def call_line(number: int, call: Mapping[str, Any] | None) -> Json:
    """Return one line of a list of calls."""
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
    """Return the whole request and answer: ``{"messages": [{"role", "text"}], …}``."""
    request, answer = call.get("request"), call.get("response")
    messages = _messages(request) if isinstance(request, dict) else [{"role": "request", "text": _text(request)}]
    response = answer if isinstance(answer, dict) else {"text": answer}
    messages.append({"role": "answer", "text": _text(response.get("text"))})
    if tools := response.get("tool_calls"):
        messages.append({"role": "tool calls", "text": _text(tools)})
    return {"messages": messages}


def changes(files: Sequence[Change]) -> Json:
    """Return the changed files, with at most `LINES` lines of diff together."""
    rows, budget = [], LINES
    for change in files:
        lines = [plain(line)[:2_000] for line in change.lines[:budget]]
        rows.append(
            asdict(change) | {"path": one_line(change.path), "lines": lines, "cut": len(change.lines) - len(lines)}
        )
        budget -= len(lines)
    return {"files": rows}


def text(value: str, limit: int = _TEXT) -> str:
    """Return a bounded text without control characters."""
    return cut(plain(value), limit)


def _messages(request: Mapping[str, Any]) -> list[Json]:
    entries = request.get("messages") or request.get("input") or request.get("prompt")
    messages = [{"role": "system", "text": _text(request["system"])}] if request.get("system") else []
    if not isinstance(entries, list):
        return [*messages, {"role": "request", "text": _text(entries if entries is not None else dict(request))}]
    for entry in entries[:_MESSAGES]:
        is_other = not isinstance(entry, dict) or set(entry) - {"role", "content"}
        content = entry if is_other else entry.get("content", "")
        role = entry.get("role", "message") if isinstance(entry, dict) else "message"
        messages.append({"role": one_line(str(role), 40), "text": _text(content)})
    return messages


def _text(value: Any) -> str:
    return text(
        value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False, indent=1)
    )
