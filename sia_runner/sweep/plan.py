"""The folder of a sweep: the plan, one run as a picklable call, the outcome of each run, and the names of its files.

plan.json             every run with its overrides, and the command that declared them
outcomes/<run>.json   how the newest process of a run ended: written by that process, one file per run
jobs/                 one folder per job with its output; submitted.jsonl: which job carries out which run
<run>/                run directories
sweep.json sweep.csv  the table
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sia_runner.config.migration import migrate_overrides
from sia_runner.records import Json
from sia_runner.store.run_directory import RunDir, RunDirectoryError, read_json, write_json

INTERRUPTED = 130  # exit code of a run that can be resumed


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of a sweep. `name` is that of its folder; `overrides` are those of the command line, in order."""

    name: str
    overrides: tuple[str, ...]
    task: str
    mode: str
    seed: int


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """The runs of a sweep, and the command that declared them."""

    args: tuple[str, ...]  # of the command, without what names the folder
    cwd: str
    runs: tuple[PlannedRun, ...]


class SweepDir:
    """The folder of one sweep, and the paths of its files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan, self.jobs = path / "plan.json", path / "jobs"
        self.submitted = self.jobs / "submitted.jsonl"

    def is_sweep(self) -> bool:
        """Return whether the folder holds a sweep."""
        return self.plan.is_file() and not (self.path / "config.yaml").is_file()

    def write_plan(self, plan: SweepPlan) -> None:
        """Write plan.json."""
        write_json(self.plan, asdict(plan))

    def read_plan(self) -> SweepPlan:
        """Read plan.json. Raises RunError where there is none."""
        if not self.is_sweep():
            raise RunDirectoryError(f"{self.path}: no sweep there (plan.json is missing)")
        plan = read_json(self.plan)
        runs = [run | {"overrides": tuple(migrate_overrides(run["overrides"]))} for run in plan["runs"]]
        return SweepPlan(tuple(migrate_overrides(plan["args"])), plan["cwd"], tuple(PlannedRun(**run) for run in runs))

    def outcome(self, name: str) -> Path:
        """Return the path of the outcome of the run called `name`."""
        return self.path / "outcomes" / f"{name.replace('/', '+')}.json"

    def ended(self, name: str) -> Json | None:
        """Return ``{"code": exit code, "said": [lines]}`` of the newest process of a run; None while there is none."""
        try:
            return read_json(self.outcome(name))
        except FileNotFoundError:
            return None

    def end(self, name: str, code: int, lines: Sequence[str] = ()) -> None:
        """Write the outcome of the run called `name`."""
        self.outcome(name).parent.mkdir(parents=True, exist_ok=True)
        write_json(self.outcome(name), {"code": code, "said": list(lines)})

    def record_jobs(self, cluster: str, ids: Mapping[str, str]) -> None:
        """Record run -> job before anything waits for the jobs, for whoever resumes the sweep."""
        self.jobs.mkdir(parents=True, exist_ok=True)
        with self.submitted.open("a", encoding="utf-8") as stream:
            for name, job in ids.items():
                stream.write(json.dumps({"run": name, "cluster": cluster, "job": job}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def recorded_jobs(self, cluster: str) -> dict[str, str]:
        """Return run -> the newest job that was submitted for it."""
        if not self.submitted.is_file():
            return {}
        lines = self.submitted.read_text(encoding="utf-8").splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line[-1] == "\n"]
        return {entry["run"]: entry["job"] for entry in entries if entry["cluster"] == cluster}


_CRASHED = 1  # exit code of a run that an error of ours ended
_LEASE_PATIENCE = 120.0  # seconds to wait for the lease of a job that died elsewhere; it is stale after 60


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run of a sweep as a picklable call."""

    sweep: Path
    name: str
    plain: Json  # the composed configuration, unchecked
    overrides: tuple[str, ...]  # of the command line, in order
    environment: Mapping[str, str | None] = field(default_factory=dict)  # variables to restore that submitit changed

    def __call__(self) -> int:
        """Carry out the run and return its exit code, which the sweep's folder keeps as well."""
        from sia_runner.config.refusals import print_refusals

        for key, value in self.environment.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        try:
            with print_refusals(self.plain) as outcome:
                outcome.code = self._start_or_resume()
            code, lines = outcome.code, outcome.lines
        except Exception as error:  # noqa: BLE001 - any error is the outcome of this run and must not end others
            traceback.print_exc()
            code, lines = _CRASHED, [f"{type(error).__name__}: {error}".splitlines()[0]]
        folder = self.sweep / self.name
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()  # Hydra made it before the checks; nothing was started
        SweepDir(self.sweep).end(self.name, code, lines)
        return code

    def checkpoint(self) -> Any:
        """Return the same run for submitit, which queues a job that is preempted or out of time again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _start_or_resume(self) -> int:
        from sia_runner.config.experiment import check_experiment
        from sia_runner.experiment.runner import RESUMABLE_KEYS, resume_run, start_run
        from sia_runner.store.lease import HEARTBEAT, LeaseHeldError

        folder = self.sweep / self.name
        if not RunDir(folder).config.is_file():
            return start_run(check_experiment(self.plain), folder, self.overrides)
        resumable = [override for override in self.overrides if override.startswith(RESUMABLE_KEYS)]
        give_up = time.monotonic() + _LEASE_PATIENCE
        while True:
            try:
                return resume_run(folder, resumable)
            except LeaseHeldError as error:
                if time.monotonic() > give_up:
                    raise
                print(f"waiting: {error}", file=sys.stderr, flush=True)
                time.sleep(HEARTBEAT)
