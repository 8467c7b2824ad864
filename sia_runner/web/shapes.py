"""What the pages get: plain data, every text bounded and without control characters. Nothing is markup here: pages put
it into the document as text."""

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
    """The best first, whatever is better; runs without a score at the end."""

    def place(row: Row) -> tuple[bool, float, str]:
        of = getattr(row, key)
        return (of is None, 0.0 if of is None else -of["value"] if row.higher_is_better else of["value"], row.path)

    return place


# "" is the order of the index: the newest first
ORDERS: Mapping[str, Callable[[Row], Any]] = {
    "name": lambda row: row.path,
    "val": _by("val"),
    "test": _by("test"),
    "cost": lambda row: (-(row.usd or 0.0), row.path),
}


def runs(rows: Sequence[Row], asked: Mapping[str, str], start: int, most: int) -> Json:
    """Rows that fit `asked` (q: words that a row's texts hold; status, task, mode) in `order`, and how many there are
    of each choice."""
    words = asked.get("q", "").lower().split()
    fit = [row for row in rows if _fits(row, asked) and all(word in _texts(row) for word in words)]
    if (key := ORDERS.get(asked.get("order", ""))) is not None:
        fit.sort(key=key)
    choices = {key: Counter(sorted(getattr(row, key) for row in rows)) for key in ("status", "task", "mode")}
    return {
        "total": len(rows),
        "found": len(fit),
        "start": start,
        "rows": [_row(row) for row in fit[start : start + most]],
        "choices": {key: {name: number for name, number in of.items() if name} for key, of in choices.items()},
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
        "counted": of.counted,
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


def _fits(row: Row, asked: Mapping[str, str]) -> bool:
    return all(not asked.get(key) or getattr(row, key) == asked[key] for key in ("status", "task", "mode"))


def _texts(row: Row) -> str:
    return f"{row.path} {row.task} {row.mode} {row.status} seed={row.seed} {row.stopped} {row.host}".lower()


def _row(row: Row) -> Json:
    texts = ("name", "status", "task", "mode", "sweep", "metric", "stopped", "host")
    return asdict(row) | {key: one_line(getattr(row, key)) for key in texts}
