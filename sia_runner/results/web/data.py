"""The data of the pages as plain JSON, every text bounded and without control characters. There is no markup."""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sia_runner.gateway.ledger_files import AccountTotals
from sia_runner.records import Json, Score
from sia_runner.results.index import RunRow
from sia_runner.results.outputs import FileChange
from sia_runner.results.questions import QuestionIndex
from sia_runner.results.run import RunReader, budget_limits, read_test_results
from sia_runner.store.directions import read_directions
from sia_runner.store.files import as_dict, as_int
from sia_runner.store.generations import GenerationRecord, earned_mode
from sia_runner.store.journal import find_incumbent, minutes_spent
from sia_runner.text import one_line, strip_control_characters, truncate_bytes


def _best_first(row: RunRow, score: Score | None) -> tuple[bool, float, str]:
    value = score.value if score else 0.0
    return score is None, -value if row.higher_is_better else value, row.path


# "" is the order of the index: the newest first; runs without a score are at the end
_RUN_ORDERS: Mapping[str, Callable[[RunRow], Any]] = {
    "name": lambda row: row.path,
    "val": lambda row: _best_first(row, row.val),
    "test": lambda row: _best_first(row, row.test),
    "cost": lambda row: (-(row.usd or 0.0), row.path),
}


def run_list(rows: Sequence[RunRow], filters: Mapping[str, str], start: int, limit: int) -> Json:
    """Return the rows that match q (words in a row's texts), status, task and mode, in `order`, with all choices."""
    words = filters.get("q", "").lower().split()
    chosen = [(key, filters[key]) for key in ("status", "task", "mode") if filters.get(key)]
    fit: list[RunRow] = []
    for row in rows:
        text = f"{row.path} {row.task} {row.mode} {row.status} seed={row.seed} {row.stopped} {row.host}".lower()
        if all(getattr(row, key) == value for key, value in chosen) and all(word in text for word in words):
            fit.append(row)
    if (key := _RUN_ORDERS.get(filters.get("order", ""))) is not None:
        fit.sort(key=key)
    texts = ("name", "status", "task", "mode", "metric", "stopped", "host")
    page = [asdict(row) | {key: one_line(getattr(row, key)) for key in texts} for row in fit[start : start + limit]]
    choices = {key: Counter(sorted(getattr(row, key) for row in rows)) for key in ("status", "task", "mode")}
    return {
        "total": len(rows),
        "found": len(fit),
        "start": start,
        "rows": page,
        "choices": {key: {name: number for name, number in counts.items() if name} for key, counts in choices.items()},
    }


_MAX_DIRECTIONS = 100  # newest notes of a person


def run_page(run: RunReader, path: str) -> Json:
    """Return the data of one run."""
    settings, journal, spending = run.config, run.journal, run.spending
    task, trainer, generations = as_dict(settings.get("task")), as_dict(settings.get("trainer")), run.generations
    declared = task.get("metric")  # before the first verdict the summary has none
    declared = {"name": declared} if isinstance(declared, str) else as_dict(declared)
    metric = as_dict(run.summary.get("metric")) or declared
    end_entry = next(reversed([*journal.of("ended")]), {})
    holder = run.holder or {}
    by_generation = spending.by(lambda account: account.generation)
    purposes = spending.by(lambda account: str(account.purpose))
    return {
        "path": path,
        "name": one_line(run.path.name),
        "folder": strip_control_characters(str(run.path)),
        "status": run.status,
        "task": one_line(str(task.get("name", ""))),
        "mode": one_line(earned_mode(str(trainer.get("mode", "")), generations, run.path)),
        "seed": as_int(settings.get("seed")),
        "max_gen": settings.get("max_gen"),
        "metric": one_line(str(metric.get("name", "score"))),
        "higher_is_better": metric.get("higher_is_better") is not False,
        "generations": [_generation_row(g, by_generation.get(g.n)) for g in generations],
        "tests": [asdict(test) for test in read_test_results(journal)],
        "best": find_incumbent(generations) or as_int(end_entry.get("best")),
        "stopped": one_line(next((str(entry.get("reason", "")) for entry in journal.of("stopped")), ""), 500),
        "directions": [direction.to_json() for direction in read_directions(journal)[-_MAX_DIRECTIONS:]],
        "limits": budget_limits(settings, journal),
        "spent": {
            "total": _usage(spending.total),
            "purposes": {name: _usage(row) for name, row in purposes.items()},
            "in_flight": spending.in_flight,
        },
        "counted": run.complete,
        "minutes": round(minutes_spent(journal), 2),
        "jobs": [{key: one_line(value) for key, value in job.items()} for job in journal.jobs()[:200]],
        "holder": {key: one_line(str(holder[key])) for key in ("host", "pid", "job") if key in holder},
        "resume": strip_control_characters(_resume_command(run)),
        "fault": one_line(journal.fault),
    }


def _resume_command(run: RunReader) -> str:
    where = shlex.quote(str(run.path))
    if run.status == "waits":
        return f"python -m sia_runner approve {where}"
    return f"python -m sia_runner resume={where}" if run.status in ("cut", "interrupted", "budget") else ""


def _generation_row(g: GenerationRecord, usage: AccountTotals | None) -> Json:
    """Return the short form of a generation, as there may be thousands; its long texts have a route of their own."""
    return {
        **{key: one_line(getattr(g, key) or "", 60) for key in ("lever", "algorithm", "status", "step")},
        **{
            key: getattr(g, key)
            for key in ("n", "parent", "partner", "outcomes", "difference", "standard_error", "p_value")
        },
        "model": one_line(g.model, 160),
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


_MAX_DIFF_LINES = 4_000  # of a diff
_MAX_TEXT_BYTES = 600 << 10  # bytes of one text: more than a trajectory stores of a request
_MAX_MESSAGES = 200


def question_page(answers: QuestionIndex, kind: str, search: str, start: int, limit: int, complete: bool) -> Json:
    """Return a page of questions, with the progress of the index."""
    done, size = answers.progress
    total, chosen = answers.questions(kind, search, start, limit)
    texts = [{"unit": one_line(row.unit, 300), "prediction": bounded_text(row.prediction, 2_000)} for row in chosen]
    return {
        "kinds": answers.kinds(),
        "total": total,
        "start": start,
        "rows": [asdict(row) | bounded for row, bounded in zip(chosen, texts, strict=True)],
        "read": {"whole": complete, "bytes": done, "size": size},
    }


def call_line(number: int, call: Mapping[str, Any] | None) -> Json:
    """Return one line of a list of calls."""
    call = call or {}
    usage, error = as_dict(call.get("usage")), as_dict(call.get("error"))
    return {
        "at": number,
        "model": one_line(str(call.get("model") or call.get("asked_model") or "")),
        "finish": one_line(str(call.get("finish_reason") or "")),
        "seconds": call.get("seconds") if isinstance(call.get("seconds"), int | float) else None,
        "tokens": [usage.get(key) if isinstance(usage.get(key), int) else None for key in ("input", "output")],
        "error": one_line(str(error.get("message", "")), 500),
    }


def call_text(call: Mapping[str, Any]) -> Json:
    """Return the whole request and answer: ``{"messages": [{"role", "text"}], …}``."""
    request, answer = call.get("request"), call.get("response")
    messages = _messages(request) if isinstance(request, dict) else [{"role": "request", "text": _text(request)}]
    response = answer if isinstance(answer, dict) else {"text": answer}
    messages.append({"role": "answer", "text": _text(response.get("text"))})
    if notice := call.get("notice"):
        messages.insert(0, {"role": "what the provider did to the request", "text": _text(notice)})
    if tools := response.get("tool_calls"):
        messages.append({"role": "tool calls", "text": _text(tools)})
    return {"messages": messages}


def diff_page(files: Sequence[FileChange]) -> Json:
    """Return the changed files, with at most `_MAX_DIFF_LINES` lines of diff together."""
    rows, budget = [], _MAX_DIFF_LINES
    for change in files:
        lines = [strip_control_characters(line)[:2_000] for line in change.lines[:budget]]
        bounded = {"path": one_line(change.path), "lines": lines, "cut": len(change.lines) - len(lines)}
        rows.append(asdict(change) | bounded)
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
    text = "" if value is None else json.dumps(value, ensure_ascii=False, indent=1)
    return bounded_text(value if isinstance(value, str) else text)
