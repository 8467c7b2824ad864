"""What came of a sweep: a row for each run, the mean over seeds for each arm. For people, sweep.json and sweep.csv."""

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sia_runner.ground.alive import gone
from sia_runner.ground.journal import Record
from sia_runner.rundir import RunDir, RunError, read_json, write_json, write_text
from sia_runner.sweep.plan import Json, Plan, Planned, SweepDir

_BY_CODE = {0: "completed", 1: "crashed", 2: "refused", 3: "failed", 4: "budget", 130: "interrupted"}
_STALE = 60.0  # seconds without a touch after which a lease of another node counts no more
_COLUMNS = ["run", "task", "mode", "arm", "seed", "status", "best", "val", "val_low", "val_high", "test", "test_low"]
_COLUMNS += ["test_high", "test_n", "baseline_test", "usd", "calls", "tokens", "seconds", "why"]


def status(sweep: SweepDir, name: str) -> str:
    """completed, crashed, refused, failed (no candidate could be scored), budget, interrupted: as its newest process
    ended. Where none has: running, cut (its process is gone), missing (never started)."""
    ended, run = sweep.ended(name), RunDir(sweep.path / name)
    if ended:
        return _BY_CODE.get(ended["code"], f"exit code {ended['code']}")
    lease = run.path / "lease.json"
    try:
        return "cut" if gone(read_json(lease), lease, _STALE) else "running"
    except (FileNotFoundError, ValueError):
        return "cut" if run.config.is_file() else "missing"


def table(sweep: SweepDir, plan: Plan) -> Json:
    """``{"sweep", "runs": [...], "means": [...]}``."""
    arms = _arms(plan.runs)
    rows = [_row(sweep, run, arm) for run, arm in zip(plan.runs, arms, strict=True)]
    return {"sweep": str(sweep.path), "runs": rows, "means": _means(rows)}


def write(sweep: SweepDir, plan: Plan) -> None:
    """sweep.json and sweep.csv, each whole or not at all."""
    found = table(sweep, plan)
    write_json(sweep.path / "sweep.json", found)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(_COLUMNS)
    lines.writerows([_flat(row)[column] for column in _COLUMNS] for row in found["runs"])
    write_text(sweep.path / "sweep.csv", text.getvalue())


def _flat(row: Json) -> Json:
    """Scores as columns."""
    flat = {key: row[key] for key in _COLUMNS if key in row}
    for split in ("val", "test"):
        score = row[split] or {}
        low, high = score.get("ci95") or (None, None)
        flat |= {split: score.get("value"), f"{split}_low": low, f"{split}_high": high}
    return flat | {"test_n": (row["test"] or {}).get("n"), "baseline_test": (row["baseline_test"] or {}).get("value")}


def _arms(runs: Sequence[Planned]) -> list[str]:
    """What tells runs apart beside task and seed: the overrides that are not the same in all of them."""
    given = [dict(override.split("=", 1) for override in run.overrides if "=" in override) for run in runs]
    keys = dict.fromkeys(key for one in given for key in one)
    varying = [key for key in keys if key not in ("seed", "task") and len({one.get(key) for one in given}) > 1]
    return [" ".join(f"{key.lstrip('+')}={one[key]}" for key in varying if key in one) for one in given]


def _row(sweep: SweepDir, run: Planned, arm: str) -> Json:
    folder = RunDir(sweep.path / run.name)
    row: Json = {"run": run.name, "task": run.task, "mode": run.mode, "arm": arm, "seed": run.seed}
    row |= {"status": status(sweep, run.name), "why": _why(sweep, run.name)}
    summary = read_json(folder.summary) if folder.summary.is_file() else {}
    best, usage = summary.get("best") or {}, summary.get("usage") or {}
    row |= {"best": best.get("generation"), "metric": summary.get("metric")}
    row |= {key: best.get(key) for key in ("val", "test", "baseline_test")}
    row |= {key: usage.get(key) for key in ("usd", "calls", "tokens")}
    return row | {"seconds": _seconds(folder)}


def _why(sweep: SweepDir, name: str) -> str:
    """What was said when it ended otherwise than well; where its job's own words are when nobody could say anything."""
    ended = sweep.ended(name)
    if ended:
        return " · ".join(ended["said"])
    noted = {cluster: sweep.noted_jobs(cluster).get(name) for cluster in ("slurm", "local")}
    job = noted["slurm"] or noted["local"]
    return f"job {job}, see jobs/" if job else ""


def _seconds(folder: RunDir) -> float | None:
    """Of all steps that were done. None where none was, or the journal does not hold."""
    try:
        return round(sum(entry["seconds"] for entry in Record(folder.journal).of("done")), 1)
    except RunError:
        return None


def _means(rows: Sequence[Json]) -> list[Json]:
    """For each task, mode and arm: the mean over its runs that were tested, and the standard deviation between them."""
    groups: dict[tuple[str, str, str], list[Json]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["mode"], row["arm"]), []).append(row)
    return [_mean(*key, of) for key, of in groups.items()]


def _mean(task: str, mode: str, arm: str, rows: Sequence[Json]) -> Json:
    tested = [row for row in rows if row["test"]]
    tests = [row["test"]["value"] for row in tested]
    prices = [row["usd"] for row in rows]
    return {
        "task": task,
        "mode": mode,
        "arm": arm,
        "runs": len(rows),
        "tested": len(tested),
        "val": statistics.mean(row["val"]["value"] for row in tested) if tested else None,
        "test": statistics.mean(tests) if tests else None,
        "test_sd": statistics.stdev(tests) if len(tests) > 1 else None,
        "usd": None if None in prices else round(sum(prices), 9),
        "seconds": round(sum(row["seconds"] or 0 for row in rows), 1),
    }


def show(sweep: SweepDir, plan: Plan) -> None:
    """The table on standard output."""
    from rich.console import Console

    found = table(sweep, plan)
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=200)
    for part in _tables(found):
        console.print(part)


def _tables(found: Json) -> list[Any]:
    from rich.markup import escape
    from rich.table import Table

    from sia_runner.run.summary import interval

    runs = Table(title=f"sweep {Path(found['sweep']).name}", title_justify="left")
    for name in ("run", "status"):
        runs.add_column(name, overflow="fold")
    for name in ("val [95% ci]", "test [95% ci]"):
        runs.add_column(name)
    for name in ("usd", "seconds"):
        runs.add_column(name, justify="right")
    runs.add_column("why", overflow="fold")
    for row in found["runs"]:
        scores = (escape(interval(row[split])) if row[split] else "–" for split in ("val", "test"))
        usd, seconds = _number(row["usd"], ".2f"), _number(row["seconds"], ".0f")
        runs.add_row(escape(row["run"]), row["status"], *scores, usd, seconds, escape(row["why"]))
    means = Table(title="mean over seeds", title_justify="left")
    for name in ("task", "mode", "arm"):
        means.add_column(name, overflow="fold")
    for name in ("tested", "val", "test", "± sd", "usd", "seconds"):
        means.add_column(name, justify="right")
    for row in found["means"]:
        cells = (_number(row[key], ".3f") for key in ("val", "test", "test_sd"))
        spent = (_number(row["usd"], ".2f"), _number(row["seconds"], ".0f"))
        arm = escape(row["arm"]) or "–"
        means.add_row(row["task"], row["mode"], arm, f"{row['tested']} of {row['runs']}", *cells, *spent)
    return [runs, means]


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)
