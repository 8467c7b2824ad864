"""Questions, calls and differences, for the pages: what is long. Every text bounded, without control characters."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sia_runner.ground.plaintext import cut, one_line, plain
from sia_runner.reading.answers import Answers
from sia_runner.reading.harnesses import Change
from sia_runner.reading.questions import Question

Json = dict[str, Any]
LINES = 4_000  # of a diff
_TEXT = 600 << 10  # bytes of one text: more than is kept of a request
_MESSAGES = 200


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
    return text(
        value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False, indent=1)
    )
