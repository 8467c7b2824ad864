"""The data of the pages as plain JSON, every text bounded and without control characters.

There is no markup: the pages insert everything as text.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sia_runner.gateway.ledger_files import AccountTotals
from sia_runner.records import Json
from sia_runner.results.index import RunRow
from sia_runner.results.outputs import FileChange
from sia_runner.results.questions import QuestionIndex, QuestionRow
from sia_runner.results.run import RunState
from sia_runner.store.files import as_dict, as_int
from sia_runner.store.generations import GenerationRecord
from sia_runner.text import one_line, strip_control_characters, truncate_bytes


def _best_first(key: str) -> Callable[[RunRow], tuple[bool, float, str]]:
    """Return a sort key that puts the best first and runs without a score at the end."""

    def place(row: RunRow) -> tuple[bool, float, str]:
        score = getattr(row, key)
        return (
            score is None,
            0.0 if score is None else -score.value if row.higher_is_better else score.value,
            row.path,
        )

    return place


# "" is the order of the index: the newest first
RUN_ORDERS: Mapping[str, Callable[[RunRow], Any]] = {
    "name": lambda row: row.path,
    "val": _best_first("val"),
    "test": _best_first("test"),
    "cost": lambda row: (-(row.usd or 0.0), row.path),
}


def run_list(rows: Sequence[RunRow], filters: Mapping[str, str], start: int, limit: int) -> Json:
    """Return the rows that match the filters in their order, and how many there are of each choice.

    `filters`: q (words that a row's texts contain), status, task, mode, order.
    """
    words = filters.get("q", "").lower().split()
    fit = [row for row in rows if _matches(row, filters) and all(word in _searchable_text(row) for word in words)]
    if (key := RUN_ORDERS.get(filters.get("order", ""))) is not None:
        fit.sort(key=key)
    choices = {key: Counter(sorted(getattr(row, key) for row in rows)) for key in ("status", "task", "mode")}
    return {
        "total": len(rows),
        "found": len(fit),
        "start": start,
        "rows": [_run_row(row) for row in fit[start : start + limit]],
        "choices": {key: {name: number for name, number in counts.items() if name} for key, counts in choices.items()},
    }


def run_page(state: RunState, path: str) -> Json:
    """Return the data of one run."""
    metric, spending = run_metric(state), state.spending.by(lambda account: account.generation)
    purposes = state.spending.by(lambda account: str(account.purpose))
    return {
        "path": path,
        "name": one_line(state.path.name),
        "folder": strip_control_characters(str(state.path)),
        "status": state.status,
        "task": one_line(state.task),
        "mode": one_line(state.mode),
        "seed": as_int(state.config.get("seed")),
        "max_gen": state.config.get("max_gen"),
        "metric": one_line(str(metric.get("name", "score"))),
        "higher_is_better": metric.get("higher_is_better") is not False,
        "generations": [generation_row(g, spending.get(g.n)) for g in state.generations],
        "tests": [asdict(test) for test in state.tests],
        "best": state.best,
        "stopped": one_line(state.stopped, 500),
        "limits": state.limits,
        "spent": {
            "total": _usage(state.spending.total),
            "purposes": {name: _usage(row) for name, row in purposes.items()},
            "in_flight": state.spending.in_flight,
        },
        "counted": state.counted,
        "minutes": round(state.minutes, 2),
        "jobs": [{key: one_line(value) for key, value in job.items()} for job in state.jobs[:200]],
        "holder": {
            key: one_line(str(value)) for key, value in (state.holder or {}).items() if key in ("host", "pid", "job")
        },
        "resume": strip_control_characters(state.resume),
        "fault": one_line(state.fault),
    }


def run_metric(state: RunState) -> Json:
    """Return the metric from the summary, before the first verdict from the configuration."""
    measured = state.summary.get("metric")
    if isinstance(measured, dict):
        return measured
    declared = as_dict(state.config.get("task")).get("metric")
    return {"name": declared} if isinstance(declared, str) else as_dict(declared)


def generation_row(g: GenerationRecord, usage: AccountTotals | None) -> Json:
    """Return the short form of a generation, as there may be thousands; its long texts have a route of their own."""
    return {
        **{key: one_line(getattr(g, key) or "", 60) for key in ("lever", "algorithm", "status", "step")},
        **{key: getattr(g, key) for key in ("n", "parent", "outcomes", "difference", "standard_error", "p_value")},
        "title": one_line(g.title, 160),
        "reason": one_line(g.reason, 300),
        "val": g.val and g.val.to_json(),
        "training": g.training and {key: getattr(g.training, key) for key in ("asked", "steps", "stopped")},
        "seconds": g.seconds,
        "since": g.since,
        "usage": usage and _usage(usage),
    }


def _usage(row: AccountTotals) -> Json:
    spent = row.to_json()
    return {key: spent[key] for key in ("usd", "tokens", "calls", "unanswered")}


def _matches(row: RunRow, filters: Mapping[str, str]) -> bool:
    return all(not filters.get(key) or getattr(row, key) == filters[key] for key in ("status", "task", "mode"))


def _searchable_text(row: RunRow) -> str:
    return f"{row.path} {row.task} {row.mode} {row.status} seed={row.seed} {row.stopped} {row.host}".lower()


def _run_row(row: RunRow) -> Json:
    texts = ("name", "status", "task", "mode", "sweep", "metric", "stopped", "host")
    return asdict(row) | {key: one_line(getattr(row, key)) for key in texts}


MAX_DIFF_LINES = 4_000  # of a diff
_MAX_TEXT_BYTES = 600 << 10  # bytes of one text: more than a trajectory stores of a request
_MAX_MESSAGES = 200


def question_row(entry: QuestionRow) -> Json:
    """Return one question."""
    return asdict(entry) | {
        "unit": one_line(entry.unit, 300),
        "prediction": truncate_bytes(strip_control_characters(entry.prediction), 2_000),
    }


def question_page(answers: QuestionIndex, kind: str, search: str, start: int, limit: int, complete: bool) -> Json:
    """Return a page of questions, with the progress of the index."""
    done, size = answers.progress
    total, chosen = answers.questions(kind, search, start, limit)
    read = {"whole": complete, "bytes": done, "size": size}
    return {
        "kinds": answers.kinds(),
        "total": total,
        "start": start,
        "rows": [question_row(entry) for entry in chosen],
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


def diff_page(files: Sequence[FileChange]) -> Json:
    """Return the changed files, with at most `LINES` lines of diff together."""
    rows, budget = [], MAX_DIFF_LINES
    for change in files:
        lines = [strip_control_characters(line)[:2_000] for line in change.lines[:budget]]
        rows.append(
            asdict(change) | {"path": one_line(change.path), "lines": lines, "cut": len(change.lines) - len(lines)}
        )
        budget -= len(lines)
    return {"files": rows}


def bounded_text(value: str, limit: int = _MAX_TEXT_BYTES) -> str:
    """Return a bounded text without control characters."""
    return truncate_bytes(strip_control_characters(value), limit)


def _messages(request: Mapping[str, Any]) -> list[Json]:
    entries = request.get("messages") or request.get("input") or request.get("prompt")
    messages = [{"role": "system", "text": _text(request["system"])}] if request.get("system") else []
    if not isinstance(entries, list):
        return [*messages, {"role": "request", "text": _text(entries if entries is not None else dict(request))}]
    for entry in entries[:_MAX_MESSAGES]:
        is_other = not isinstance(entry, dict) or set(entry) - {"role", "content"}
        content = entry if is_other else entry.get("content", "")
        role = entry.get("role", "message") if isinstance(entry, dict) else "message"
        messages.append({"role": one_line(str(role), 40), "text": _text(content)})
    return messages


def _text(value: Any) -> str:
    return bounded_text(
        value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False, indent=1)
    )
