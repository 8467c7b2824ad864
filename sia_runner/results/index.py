"""An index of the runs below a folder, with one row a run. A refresh reads only what changed."""

import math
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from sia_runner.config.migration import migrate
from sia_runner.records import Json, Score
from sia_runner.store.files import FileStamp, as_dict, as_int, as_list, as_number, file_stamp, load_json, read_text
from sia_runner.store.lease import process_ended, process_identity
from sia_runner.text import strip_control_characters

_MAX_FOLDER_DEPTH = 4  # levels of folders below the root
_MAX_FOLDERS = 50_000  # visited in one search


def find_runs(root: Path) -> dict[str, str]:
    """Return the paths of runs below `root` (or ".") -> the path of the sweep each is part of, or ""."""
    if _link_stamp(root / "config.yaml"):
        return {".": ""}
    runs: dict[str, str] = {}
    todo = [("", 0)]
    for folder, depth in todo:
        sweep = folder if _link_stamp(root / folder / "plan.json") else ""
        for name in _subfolders(root / folder):
            path = f"{folder}/{name}" if folder else name
            if _link_stamp(root / path / "config.yaml"):
                runs[path] = sweep
            elif depth + 1 < _MAX_FOLDER_DEPTH and len(todo) < _MAX_FOLDERS and not name.startswith("."):
                todo.append((path, depth + 1))
    return runs


def _link_stamp(path: Path) -> FileStamp | None:
    try:
        return FileStamp.of(path.lstat())
    except OSError:
        return None


def _subfolders(path: Path) -> list[str]:
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    return [name for name in names if strip_control_characters(name) == name]  # no run of ours has another name


_STALE_SECONDS = 90.0  # seconds without a touch, for leases of other machines, whose clocks may differ a little


def lease_holder(run: Path) -> Json | None:
    """Return the lease of the process that writes `run`, ``{"host", "pid", "job", …}``, or None if none is alive."""
    lease, touched = load_json(run, "lease.json", 1 << 16), file_stamp(run, "lease.json")
    if not isinstance(lease, dict) or touched is None:
        return None
    own = process_identity()
    try:
        if all(lease.get(key) == own[key] for key in ("host", "boot", "space")):
            return None if process_ended(lease, run / "lease.json", _STALE_SECONDS) else lease
    except (KeyError, TypeError, ValueError):
        return None
    return lease if time.time() - touched.mtime_ns / 1e9 < _STALE_SECONDS else None


_MAX_YAML_DEPTH = 100  # nested collections


def read_config(run: Path) -> Json:
    """Return config.yaml as plain data, or an empty dict if it cannot be read."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if PyYAML was built with libyaml
    source, depth = read_text(run, "config.yaml", 1 << 20) or "", 0
    try:
        for event in yaml.parse(source, Loader=loader):  # loading recurses without a bound: a deep file would crash it
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_YAML_DEPTH:
                return {}
        return migrate(as_dict(yaml.load(source, Loader=loader)))  # noqa: S506 - both are safe
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}


_MAX_COURSE_POINTS = 40  # newest generations in a row
MAX_SUMMARY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run in the list."""

    path: str  # relative to the folder of the index, "." for the folder itself
    name: str
    status: str  # running, waits, cut, completed, failed, budget, interrupted
    task: str = ""
    mode: str = ""
    seed: int | None = None
    metric: str = ""
    higher_is_better: bool = True
    generations: int = 0
    accepted: int = 0
    course: tuple[tuple[float | None, bool], ...] = ()  # val of the newest generations, and whether it was accepted
    best: int | None = None
    val: Score | None = None
    test: Score | None = None
    usd: float | None = None  # None if some price is not known
    tokens: int = 0
    calls: int = 0
    stopped: str = ""
    directed: int = 0  # notes of a person
    host: str = ""  # of its process, if that is alive
    updated: float = 0.0  # unix seconds


class RunIndex:
    """The rows of all runs below `root`. Not thread safe."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cache: dict[str, tuple[tuple[FileStamp | None, ...], RunRow]] = {}
        self.paths: Collection[str] = ()  # of all runs, relative to `root`

    def refresh(self, seconds: float = math.inf) -> list[RunRow]:
        """Return the rows, the newest run first, after about `seconds` of reading. Later refreshes read the rest."""
        self.paths = find_runs(self._root)
        self._cache = {path: cached for path, cached in self._cache.items() if path in self.paths}
        updated: dict[str, float] = {}
        for path in self.paths:
            names = ("journal.jsonl", "summary.json", "config.yaml")
            stamps = (_link_stamp(self._root / path / name) for name in names)
            updated[path] = next((stamp.mtime_ns / 1e9 for stamp in stamps if stamp), 0.0)
        newest = sorted(self.paths, key=lambda path: (-updated[path], path))
        deadline = time.monotonic() + seconds
        rows = (self._row(path, updated[path], time.monotonic() < deadline) for path in newest)
        return [row for row in rows if row]

    def _row(self, path: str, updated: float, read: bool) -> RunRow | None:
        run = self._root / path
        stamps = tuple(_link_stamp(run / name) for name in ("config.yaml", "summary.json"))
        cached = self._cache.get(path)
        if read and (cached is None or cached[0] != stamps):
            cached = self._cache[path] = (stamps, _read_row(run, path))
        if cached is None:
            return None
        row = replace(cached[1], updated=updated)
        process = lease_holder(run) if os.path.lexists(run / "lease.json") else None
        return replace(row, status="running", host=str(process.get("host", ""))) if process else row


def run_status(status: str | None, waits: bool, alive: bool) -> str:
    """Return the present status of a run whose summary says `status` (None: it has no summary yet)."""
    if alive or waits:
        return "running" if alive else "waits"
    return "cut" if status in (None, "running") else status


def _read_row(run: Path, path: str) -> RunRow:
    """Return the row of a run that no process works on: from its summary, or config.yaml before the first verdict."""
    summary = load_json(run, "summary.json", MAX_SUMMARY_BYTES)
    if not isinstance(summary, dict):
        settings = read_config(run)
        task, trainer = as_dict(settings.get("task")), as_dict(settings.get("trainer"))
        names = str(task.get("name", "")), str(trainer.get("mode", ""))
        return RunRow(path, run.name, "cut", *names, as_int(settings.get("seed")))
    best, usage, metric = (as_dict(summary.get(key)) for key in ("best", "usage", "metric"))
    done = [row for row in as_list(summary.get("generations")) if isinstance(row, dict)]
    accepted = [row.get("status") == "accepted" for row in done]
    scores = [Score.parse(row.get("val")) for row in done[-_MAX_COURSE_POINTS:]]
    return RunRow(
        path=path,
        name=run.name,
        status=run_status(str(summary.get("status")), summary.get("waits") is not None, alive=False),
        task=str(summary.get("task", "")),
        mode=str(summary.get("mode", "")),
        seed=as_int(summary.get("seed")),
        metric=str(metric.get("name", "")),
        higher_is_better=metric.get("higher_is_better") is not False,
        generations=len(done),
        accepted=sum(accepted),
        course=tuple(zip([val and val.value for val in scores], accepted[-_MAX_COURSE_POINTS:], strict=True)),
        best=as_int(best.get("generation")),
        val=Score.parse(best.get("val")),
        test=Score.parse(best.get("test")),
        usd=as_number(usage.get("usd")),
        tokens=as_int(usage.get("tokens")) or 0,
        calls=as_int(usage.get("calls")) or 0,
        stopped=str(summary.get("stopped") or ""),
        directed=len(as_list(summary.get("directions"))),
    )
