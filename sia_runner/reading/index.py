"""All runs below a folder, one row each. A refresh looks at names and stamps; it reads only what changed."""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sia_runner.reading.alive import holder
from sia_runner.reading.configs import config
from sia_runner.reading.files import Stamp, json_of
from sia_runner.reading.finding import find, stamp_of
from sia_runner.reading.generations import score

COURSE = 40  # generations of a row
_SUMMARY = 64 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """`path` relative to the folder of the index ("." for itself); `status`: running, waits, cut, completed, failed,
    budget, interrupted; scores as in generations.py; `updated` unix seconds; `usd` None where a price is not known."""

    path: str
    name: str
    status: str
    task: str = ""
    mode: str = ""
    seed: int | None = None
    sweep: str = ""  # path of the sweep that it is part of
    metric: str = ""
    higher_is_better: bool = True
    generations: int = 0
    accepted: int = 0
    course: tuple[tuple[float | None, bool], ...] = ()  # val of the newest generations, and whether it was accepted
    best: int | None = None
    val: Mapping[str, Any] | None = None
    test: Mapping[str, Any] | None = None
    baseline_test: Mapping[str, Any] | None = None
    usd: float | None = None
    tokens: int = 0
    calls: int = 0
    stopped: str = ""
    host: str = ""  # where its process works, if it does
    updated: float = 0.0


class Index:
    """One thread at a time. `paths`: of all runs that are there; `read`: how many files were read so far."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kept: dict[str, tuple[tuple[Stamp | None, ...], dict[str, Any]]] = {}
        self.paths: dict[str, str] = {}  # -> the sweep
        self.read = 0

    def refresh(self, seconds: float = math.inf) -> list[Row]:
        """The newest first. What is new is read for about so long, from the newest on: where `rows` are fewer than
        `paths`, the rest comes with the next refreshes."""
        self.paths = find(self._root)
        self._kept = {path: kept for path, kept in self._kept.items() if path in self.paths}
        updated = {path: _updated(self._root / path) for path in self.paths}
        newest = sorted(self.paths, key=lambda path: (-updated[path], path))
        until = time.monotonic() + seconds
        rows = (self._row(path, updated[path], time.monotonic() < until) for path in newest)
        return [row for row in rows if row]

    def _row(self, path: str, updated: float, read: bool) -> Row | None:
        run, sweep = self._root / path, self.paths[path]
        stamps = tuple(stamp_of(run / name) for name in ("config.yaml", "summary.json"))
        kept = self._kept.get(path)
        if read and (kept is None or kept[0] != stamps):
            self.read += 1
            kept = self._kept[path] = (stamps, _facts(run))
        if kept is None:
            return None
        facts = kept[1]
        process = holder(run) if os.path.lexists(run / "lease.json") else None
        status = state(facts.get("status"), facts["waits"], process is not None)
        known = {key: value for key, value in facts.items() if key not in ("status", "waits")}
        host = str((process or {}).get("host", ""))
        return Row(path, run.name, status, **known, sweep=sweep, host=host, updated=updated)


def _updated(run: Path) -> float:
    stamps = (stamp_of(run / name) for name in ("journal.jsonl", "summary.json", "config.yaml"))
    return next((stamp.mtime_ns / 1e9 for stamp in stamps if stamp), 0.0)


def state(status: str | None, waits: bool, alive: bool) -> str:
    """What is true now of a run whose summary says `status` (None: it has none yet)."""
    if alive:
        return "running"
    if waits:
        return "waits"
    return "cut" if status in (None, "running") else status


def _facts(run: Path) -> dict[str, Any]:
    summary = json_of(run, "summary.json", _SUMMARY)
    if not isinstance(summary, dict):
        return _declared(run)
    best, usage, metric = (_dict(summary.get(key)) for key in ("best", "usage", "metric"))
    done = [one for one in _list(summary.get("generations")) if isinstance(one, dict)]
    return {
        "status": str(summary.get("status")),
        "waits": summary.get("waits") is not None,
        "task": str(summary.get("task", "")),
        "mode": str(summary.get("mode", "")),
        "seed": _int(summary.get("seed")),
        "metric": str(metric.get("name", "")),
        "higher_is_better": metric.get("higher_is_better") is not False,
        "generations": len(done),
        "accepted": sum(one.get("status") == "accepted" for one in done),
        "course": tuple(_point(one) for one in done[-COURSE:]),
        "best": _int(best.get("generation")),
        **{key: score(best.get(key)) for key in ("val", "test", "baseline_test")},
        "usd": usd if isinstance(usd := usage.get("usd"), int | float) and abs(usd) < float("inf") else None,
        "tokens": _int(usage.get("tokens")) or 0,
        "calls": _int(usage.get("calls")) or 0,
        "stopped": str(summary.get("stopped") or ""),
    }


def _point(generation: dict[str, Any]) -> tuple[float | None, bool]:
    of = score(generation.get("val"))
    return (of["value"] if of else None), generation.get("status") == "accepted"


def _declared(run: Path) -> dict[str, Any]:
    """Before the first generation has a verdict."""
    given = config(run)
    task, trainer = _dict(given.get("task")), _dict(given.get("trainer"))
    facts = {"task": str(task.get("name", "")), "mode": str(trainer.get("mode", "")), "seed": _int(given.get("seed"))}
    return {"status": None, "waits": False} | facts


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
