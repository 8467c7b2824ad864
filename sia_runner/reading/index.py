"""All runs below a folder, one row each. A refresh looks at names and stamps; it reads only what changed."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sia_runner.plaintext import plain
from sia_runner.reading.alive import holder
from sia_runner.reading.files import Stamp, json_of, text
from sia_runner.reading.generations import score

DEPTH = 4  # folders above a run, counted from the one that is given
DEEPEST = 100  # collections in one another in config.yaml
FOLDERS = 50_000  # looked at in one refresh
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
    """``Index(root).refresh()`` -> rows, the newest first. One thread at a time. `read`: files read so far."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kept: dict[str, tuple[tuple[Stamp | None, ...], dict[str, Any]]] = {}
        self.read = 0

    def refresh(self) -> list[Row]:
        found = find(self._root)
        self._kept = {path: kept for path, kept in self._kept.items() if path in found}
        rows = [self._row(path, sweep) for path, sweep in found.items()]
        return sorted(rows, key=lambda row: (-row.updated, row.path))

    def _row(self, path: str, sweep: str) -> Row:
        run = self._root / path
        stamps = tuple(_stamp(run / name) for name in ("config.yaml", "summary.json"))
        kept = self._kept.get(path)
        if kept is None or kept[0] != stamps:
            self.read += 1
            kept = self._kept[path] = (stamps, _facts(run))
        facts, touched = kept[1], _stamp(run / "journal.jsonl") or stamps[1] or stamps[0]
        process = holder(run) if os.path.lexists(run / "lease.json") else None
        updated = touched.mtime_ns / 1e9 if touched else 0.0
        status = state(facts.get("status"), facts["waits"], process is not None)
        known = {key: value for key, value in facts.items() if key not in ("status", "waits")}
        host = str((process or {}).get("host", ""))
        return Row(path, run.name, status, **known, sweep=sweep, host=host, updated=updated)


def find(root: Path) -> dict[str, str]:
    """Runs below `root` (or itself) -> the sweep each is part of, or "". Links are not followed."""
    if _stamp(root / "config.yaml"):
        return {".": ""}
    found: dict[str, str] = {}
    todo = [("", 0)]
    for looked, (folder, depth) in enumerate(todo):
        if looked == FOLDERS:
            break
        names = _folders(root / folder)
        sweep = folder if _stamp(root / folder / "plan.json") else ""
        for name in names:
            path = f"{folder}/{name}" if folder else name
            if _stamp(root / path / "config.yaml"):
                found[path] = sweep
            elif depth + 1 < DEPTH and not name.startswith("."):
                todo.append((path, depth + 1))
    return found


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
        "best": _int(best.get("generation")),
        **{key: score(best.get(key)) for key in ("val", "test", "baseline_test")},
        "usd": usd if isinstance(usd := usage.get("usd"), int | float) and abs(usd) < float("inf") else None,
        "tokens": _int(usage.get("tokens")) or 0,
        "calls": _int(usage.get("calls")) or 0,
        "stopped": str(summary.get("stopped") or ""),
    }


def _declared(run: Path) -> dict[str, Any]:
    """Before the first generation has a verdict."""
    given = config(run)
    task, trainer = _dict(given.get("task")), _dict(given.get("trainer"))
    facts = {"task": str(task.get("name", "")), "mode": str(trainer.get("mode", "")), "seed": _int(given.get("seed"))}
    return {"status": None, "waits": False} | facts


def config(run: Path) -> dict[str, Any]:
    """config.yaml as plain data; empty where it cannot be read."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
    try:
        said = text(run, "config.yaml", 1 << 20) or ""
        if _depth(said, loader) > DEEPEST:
            return {}
        return _dict(yaml.load(said, Loader=loader))  # noqa: S506 - both are safe
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}


def _depth(said: str, loader: Any) -> int:
    """How deep collections stand in one another. The C loader goes down by recursion and has no bound: it crashes."""
    deepest = depth = 0
    for event in yaml.parse(said, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            deepest = max(deepest, depth)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if deepest > DEEPEST:
            break
    return deepest


def _stamp(path: Path) -> Stamp | None:
    """Of the file or the link itself; `find` came here without following one."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def _folders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and _shown(entry.name))
    except OSError:
        return []


def _shown(name: str) -> bool:
    """No run of ours has a name that cannot be printed."""
    return plain(name) == name


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
