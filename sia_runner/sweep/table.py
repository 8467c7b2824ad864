"""The table of a sweep, printed and written to sweep.json and sweep.csv: a row per run, the mean over seeds per arm."""

import csv
import io
import statistics
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from sia_runner.experiment.summary import format_score
from sia_runner.experiment.terminal import wide_console
from sia_runner.records import Score, score_columns
from sia_runner.store.directions import directed_words
from sia_runner.store.journal import JournalReader
from sia_runner.store.lease import lease_is_held
from sia_runner.store.run_directory import RunDir, RunDirectoryError, read_json, write_json, write_text
from sia_runner.sweep.plan import Json, PlannedRun, SweepDir, SweepPlan

_BY_CODE = {0: "completed", 1: "crashed", 2: "refused", 3: "failed", 4: "budget", 130: "interrupted"}
_COLUMNS = ["run", "task", "mode", "arm", "seed", "status", "best", "val", "val_low", "val_high", "test", "test_low"]
_COLUMNS += ["test_high", "test_n", "baseline_test", "usd", "calls", "tokens", "seconds", "directed", "why"]


def sweep_run_status(sweep: SweepDir, name: str) -> str:
    """Return how a run's newest process ended (_BY_CODE), or running, cut (it is gone) or missing (never started)."""
    if outcome := sweep.ended(name):
        return _BY_CODE.get(outcome["code"], f"exit code {outcome['code']}")
    run = RunDir(sweep.path / name)
    if lease_is_held(run.path):
        return "running"
    return "cut" if run.config.is_file() or (run.path / "lease.json").is_file() else "missing"


def sweep_table(sweep: SweepDir, plan: SweepPlan) -> Json:
    """Return ``{"sweep", "runs": [...], "means": [...]}``."""
    arms = arm_names([run.overrides for run in plan.runs])
    rows = [_run_row(sweep, run, arm) for run, arm in zip(plan.runs, arms, strict=True)]
    return {"sweep": str(sweep.path), "runs": rows, "means": _means(rows)}


def write_table(sweep: SweepDir, plan: SweepPlan) -> None:
    """Write sweep.json and sweep.csv, each atomically."""
    summary = sweep_table(sweep, plan)
    write_json(sweep.path / "sweep.json", summary)
    text = io.StringIO()
    lines = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    for row in summary["runs"]:
        for name in ("val", "test", "baseline_test"):
            row.update(score_columns(name, Score.parse(row[name])))
        lines.writerow(row)
    write_text(sweep.path / "sweep.csv", text.getvalue())


def arm_names(runs: Sequence[Sequence[str]]) -> list[str]:
    """Name the arm of each run: its overrides, except task and seed, that are not the same in all `runs`."""
    overrides = [dict(override.split("=", 1) for override in run if "=" in override) for run in runs]
    keys = dict.fromkeys(key for pairs in overrides for key in pairs)
    varying = [key for key in keys if key not in ("seed", "task") and len({pairs.get(key) for pairs in overrides}) > 1]
    return [" ".join(f"{key.lstrip('+')}={pairs[key]}" for key in varying if key in pairs) for pairs in overrides]


def _run_row(sweep: SweepDir, run: PlannedRun, arm: str) -> Json:
    folder, outcome = RunDir(sweep.path / run.name), sweep.ended(run.name)
    row: Json = {"run": run.name, "task": run.task, "mode": run.mode, "arm": arm, "seed": run.seed}
    row["status"] = sweep_run_status(sweep, run.name)
    if outcome:
        row["why"] = " · ".join(outcome["said"])
    else:
        job = sweep.recorded_jobs("slurm").get(run.name) or sweep.recorded_jobs("local").get(run.name)
        row["why"] = f"job {job}, see jobs/" if job else ""
    summary = read_json(folder.summary) if folder.summary.is_file() else {}
    best, usage = summary.get("best") or {}, summary.get("usage") or {}
    row["mode"] = summary.get("mode") or run.mode  # what was done, not what was planned
    row["why"] = row["why"] or (f"never trained: {summary['untrained']}" if summary.get("untrained") else "")
    row["directed"] = len(summary.get("directions") or ())
    if words := directed_words(row["directed"]):
        row["why"] = " · ".join(filter(None, [row["why"], f"no fair arm: {words}"]))
        row["arm"] = f"{arm} directed".lstrip()  # its mean stands apart
    row |= {"best": best.get("generation"), "metric": summary.get("metric")}
    row |= {key: best.get(key) for key in ("val", "test", "baseline_test")}
    row |= {key: usage.get(key) for key in ("usd", "calls", "tokens")}
    try:
        row["seconds"] = round(sum(entry["seconds"] for entry in JournalReader(folder.journal).of("done")), 1)
    except RunDirectoryError:  # no journal, or a damaged one
        row["seconds"] = None
    return row


def _means(rows: Sequence[Json]) -> list[Json]:
    """Average the tested runs of each task, mode and arm, with the standard deviation between them."""
    groups: dict[tuple[str, str, str], list[Json]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["mode"], row["arm"]), []).append(row)
    means: list[Json] = []
    for (task, mode, arm), group in groups.items():
        tested, prices = [row for row in group if row["test"]], [row["usd"] for row in group]
        tests = [row["test"]["value"] for row in tested]
        mean: Json = {"task": task, "mode": mode, "arm": arm, "runs": len(group), "tested": len(tested)}
        mean["val"] = statistics.mean(row["val"]["value"] for row in tested) if tested else None
        mean["test"] = statistics.mean(tests) if tests else None
        mean["test_sd"] = statistics.stdev(tests) if len(tests) > 1 else None
        mean["usd"] = None if None in prices else round(sum(prices), 9)
        means.append(mean | {"seconds": round(sum(row["seconds"] or 0 for row in group), 1)})
    return means


def fold(*names: str) -> list[Column]:
    """Return columns of a table whose long texts are folded."""
    return [Column(name, overflow="fold") for name in names]


def right(*names: str) -> list[Column]:
    """Return columns of numbers."""
    return [Column(name, justify="right") for name in names]


def print_tables(*tables: Any, width: int = 200) -> None:
    """Print tables of rich on standard output, in `width` characters where that is no terminal."""
    console = wide_console(width)
    for table in tables:
        console.print(table)


def print_table(sweep: SweepDir, plan: SweepPlan) -> None:
    """Print the table on standard output."""
    summary = sweep_table(sweep, plan)
    arm = ["arm"] if any(row["arm"] for row in summary["runs"]) else []
    columns = [*fold("run", *arm, "status"), "val [95% ci]", "test [95% ci]", *right("usd", "seconds"), *fold("why")]
    runs = Table(*columns, title=f"sweep {sweep.path.name}", title_justify="left")
    for row in summary["runs"]:
        scores = (escape(format_score(row[split])) if row[split] else "–" for split in ("val", "test"))
        usd, seconds = _number(row["usd"], ".2f"), _number(row["seconds"], ".0f")
        names = [escape(row[key]) for key in ("run", *arm)]
        runs.add_row(*names, row["status"], *scores, usd, seconds, escape(row["why"]))
    columns = [*fold("task", "mode", "arm"), *right("tested", "val", "test", "± sd", "usd", "seconds")]
    means = Table(*columns, title="mean over seeds", title_justify="left")
    for row in summary["means"]:
        cells = (_number(row[key], ".3f") for key in ("val", "test", "test_sd"))
        costs = (_number(row["usd"], ".2f"), _number(row["seconds"], ".0f"))
        arm = escape(row["arm"]) or "–"
        means.add_row(row["task"], row["mode"], arm, f"{row['tested']} of {row['runs']}", *cells, *costs)
    print_tables(runs, means)


def _number(value: float | None, spec: str) -> str:
    return "–" if value is None else format(value, spec)
