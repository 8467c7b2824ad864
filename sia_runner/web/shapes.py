"""The data of the pages as plain JSON, every text bounded and without control characters.

There is no markup: the pages insert everything as text.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sia_runner.ground.plaintext import one_line, plain
from sia_runner.reading.generations import Generation
from sia_runner.reading.index import Row
from sia_runner.reading.run import View

Json = dict[str, Any]


def _by(key: str) -> Callable[[Row], tuple[bool, float, str]]:
    """Return a sort key that puts the best first and runs without a score at the end."""

    def place(row: Row) -> tuple[bool, float, str]:
        score = getattr(row, key)
        return (
            score is None,
            0.0 if score is None else -score["value"] if row.higher_is_better else score["value"],
            row.path,
        )

    return place


# "" is the order of the index: the newest first
ORDERS: Mapping[str, Callable[[Row], Any]] = {
    "name": lambda row: row.path,
    "val": _by("val"),
    "test": _by("test"),
    "cost": lambda row: (-(row.usd or 0.0), row.path),
}


def runs(rows: Sequence[Row], filters: Mapping[str, str], start: int, limit: int) -> Json:
    """Return the rows that match the filters in their order, and how many there are of each choice.

    `filters`: q (words that a row's texts contain), status, task, mode, order.
    """
    words = filters.get("q", "").lower().split()
    fit = [row for row in rows if _fits(row, filters) and all(word in _texts(row) for word in words)]
    if (key := ORDERS.get(filters.get("order", ""))) is not None:
        fit.sort(key=key)
    choices = {key: Counter(sorted(getattr(row, key) for row in rows)) for key in ("status", "task", "mode")}
    return {
        "total": len(rows),
        "found": len(fit),
        "start": start,
        "rows": [_row(row) for row in fit[start : start + limit]],
        "choices": {key: {name: number for name, number in counts.items() if name} for key, counts in choices.items()},
    }


def view(state: View, path: str) -> Json:
    """Return the data of one run."""
    higher = metric(state).get("higher_is_better") is not False
    return {
        "path": path,
        "name": one_line(state.path.name),
        "folder": plain(str(state.path)),
        "status": state.status,
        "task": one_line(state.task),
        "mode": one_line(state.mode),
        "seed": state.config.get("seed") if isinstance(state.config.get("seed"), int) else None,
        "max_gen": state.config.get("max_gen"),
        "metric": one_line(str(metric(state).get("name", "score"))),
        "higher_is_better": higher,
        "generations": [generation(candidate, state.spending) for candidate in state.generations],
        "tests": state.tests,
        "best": state.best,
        "stopped": one_line(state.stopped, 500),
        "limits": state.limits,
        "spent": {key: state.spending.get(key) for key in ("total", "purposes", "in_flight")},
        "counted": state.counted,
        "minutes": round(state.minutes, 2),
        "jobs": [{key: one_line(value) for key, value in job.items()} for job in state.jobs[:200]],
        "holder": {
            key: one_line(str(value)) for key, value in (state.holder or {}).items() if key in ("host", "pid", "job")
        },
        "resume": plain(state.resume),
        "fault": one_line(state.fault),
    }


def metric(state: View) -> Json:
    """Return the metric from the summary, before the first verdict from the configuration."""
    measured = state.summary.get("metric")
    if isinstance(measured, dict):
        return measured
    task = state.config.get("task")
    declared = task.get("metric") if isinstance(task, dict) else None
    return declared if isinstance(declared, dict) else {"name": declared} if isinstance(declared, str) else {}


def generation(candidate: Generation, spending: Mapping[str, Any]) -> Json:
    """Return the short form of a generation, as there may be thousands; its long texts have a route of their own."""
    fields: Json = asdict(candidate) | {
        "title": one_line(candidate.title, 160),
        "reason": one_line(candidate.reason, 300),
    }
    fields.pop("rationale")
    fields["training"] = candidate.training and {
        key: candidate.training.get(key) for key in ("asked", "steps", "stopped")
    }
    fields |= {key: one_line(str(fields[key] or ""), 60) for key in ("lever", "algorithm", "status", "step")}
    return fields | {"usage": spending.get("generations", {}).get(candidate.n)}


def _fits(row: Row, filters: Mapping[str, str]) -> bool:
    return all(not filters.get(key) or getattr(row, key) == filters[key] for key in ("status", "task", "mode"))


def _texts(row: Row) -> str:
    return f"{row.path} {row.task} {row.mode} {row.status} seed={row.seed} {row.stopped} {row.host}".lower()


def _row(row: Row) -> Json:
    texts = ("name", "status", "task", "mode", "sweep", "metric", "stopped", "host")
    return asdict(row) | {key: one_line(getattr(row, key)) for key in texts}
