"""An index of the runs below a folder, with one row a run. A refresh compares stamps and reads only what changed."""

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

COURSE = 40  # newest generations in a row
_SUMMARY = 64 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One run in the list.

    `path` is relative to the folder of the index ("." for the folder itself). `status`: running, waits, cut, completed,
    failed, budget, interrupted. Scores are as in generations.py, `updated` is in unix seconds, `usd` is None if some
    price is not known.
    """

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
    host: str = ""  # of its process, if that is alive
    updated: float = 0.0


class Index:
    """The rows of all runs below `root`. Not thread safe.

    `paths`: run path -> path of its sweep, or "". `read`: the number of runs read so far.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cache: dict[str, tuple[tuple[Stamp | None, ...], dict[str, Any]]] = {}
        self.paths: dict[str, str] = {}  # run -> sweep
        self.read = 0

    def refresh(self, seconds: float = math.inf) -> list[Row]:
        """Return the rows, the newest run first.

        New files are read for about `seconds`, from the newest run on. If there are fewer rows than `paths`, later
        refreshes read the rest.
        """
        self.paths = find(self._root)
        self._cache = {path: cached for path, cached in self._cache.items() if path in self.paths}
        updated = {path: _updated(self._root / path) for path in self.paths}
        newest = sorted(self.paths, key=lambda path: (-updated[path], path))
        deadline = time.monotonic() + seconds
        rows = (self._row(path, updated[path], time.monotonic() < deadline) for path in newest)
        return [row for row in rows if row]

    def _row(self, path: str, updated: float, read: bool) -> Row | None:
        run, sweep = self._root / path, self.paths[path]
        stamps = tuple(stamp_of(run / name) for name in ("config.yaml", "summary.json"))
        cached = self._cache.get(path)
        if read and (cached is None or cached[0] != stamps):
            self.read += 1
            cached = self._cache[path] = (stamps, _facts(run))
        if cached is None:
            return None
        facts = cached[1]
        process = holder(run) if os.path.lexists(run / "lease.json") else None
        status = state(facts.get("status"), facts["waits"], process is not None)
        fields = {key: value for key, value in facts.items() if key not in ("status", "waits")}
        host = str((process or {}).get("host", ""))
        return Row(path, run.name, status, **fields, sweep=sweep, host=host, updated=updated)


def _updated(run: Path) -> float:
    stamps = (stamp_of(run / name) for name in ("journal.jsonl", "summary.json", "config.yaml"))
    return next((stamp.mtime_ns / 1e9 for stamp in stamps if stamp), 0.0)


def state(status: str | None, waits: bool, alive: bool) -> str:
    """Return the present status of a run whose summary says `status` (None: it has no summary yet)."""
    if alive:
        return "running"
    if waits:
        return "waits"
    return "cut" if status in (None, "running") else status


def _facts(run: Path) -> dict[str, Any]:
    summary = json_of(run, "summary.json", _SUMMARY)
    if not isinstance(summary, dict):
        return _config_facts(run)
    best, usage, metric = (_dict(summary.get(key)) for key in ("best", "usage", "metric"))
    done = [generation for generation in _list(summary.get("generations")) if isinstance(generation, dict)]
    return {
        "status": str(summary.get("status")),
        "waits": summary.get("waits") is not None,
        "task": str(summary.get("task", "")),
        "mode": str(summary.get("mode", "")),
        "seed": _int(summary.get("seed")),
        "metric": str(metric.get("name", "")),
        "higher_is_better": metric.get("higher_is_better") is not False,
        "generations": len(done),
        "accepted": sum(generation.get("status") == "accepted" for generation in done),
        "course": tuple(_point(generation) for generation in done[-COURSE:]),
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


def _config_facts(run: Path) -> dict[str, Any]:
    """Return what config.yaml says, before the first generation has a verdict."""
    settings = config(run)
    task, trainer = _dict(settings.get("task")), _dict(settings.get("trainer"))
    facts = {
        "task": str(task.get("name", "")),
        "mode": str(trainer.get("mode", "")),
        "seed": _int(settings.get("seed")),
    }
    return {"status": None, "waits": False} | facts


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
