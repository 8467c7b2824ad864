"""The folder of a sweep: the plan, the outcome of each run, and the names of its files.

plan.json             every run with its overrides, and the command that declared them
outcomes/<run>.json   how the newest process of a run ended: written by that process, one file per run
jobs/                 one folder per job with its output; submitted.jsonl: which job carries out which run
<run>/                run directories
sweep.json sweep.csv  the table
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sia_runner.rundir import RunError, read_json, write_json

Json = dict[str, Any]
INTERRUPTED = 130  # exit code of a run that can be resumed


@dataclass(frozen=True, slots=True)
class Planned:
    """One run of a sweep. `name` is that of its folder; `overrides` are those of the command line, in order."""

    name: str
    overrides: tuple[str, ...]
    task: str
    mode: str
    seed: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The runs of a sweep, and the command that declared them."""

    args: tuple[str, ...]  # of the command, without what names the folder
    cwd: str
    runs: tuple[Planned, ...]


@dataclass(frozen=True, slots=True)
class SweepDir:
    """The folder of one sweep."""

    path: Path

    @property
    def plan(self) -> Path:
        """The path of plan.json."""
        return self.path / "plan.json"

    @property
    def jobs(self) -> Path:
        """The folder of the jobs."""
        return self.path / "jobs"

    @property
    def submitted(self) -> Path:
        """The path of the list of submitted jobs."""
        return self.jobs / "submitted.jsonl"

    def is_sweep(self) -> bool:
        """Return whether the folder holds a sweep."""
        return self.plan.is_file() and not (self.path / "config.yaml").is_file()

    def write_plan(self, plan: Plan) -> None:
        """Write plan.json."""
        write_json(self.plan, asdict(plan))

    def read_plan(self) -> Plan:
        """Read plan.json. Raises RunError where there is none."""
        if not self.is_sweep():
            raise RunError(f"{self.path}: no sweep there (plan.json is missing)")
        plan = read_json(self.plan)
        runs = tuple(Planned(**(run | {"overrides": tuple(run["overrides"])})) for run in plan["runs"])
        return Plan(tuple(plan["args"]), plan["cwd"], runs)

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
        lines = [json.dumps({"run": name, "cluster": cluster, "job": job}) for name, job in ids.items()]
        with self.submitted.open("a", encoding="utf-8") as stream:
            stream.write("".join(f"{line}\n" for line in lines))
            stream.flush()
            os.fsync(stream.fileno())

    def recorded_jobs(self, cluster: str) -> dict[str, str]:
        """Return run -> the newest job that was submitted for it."""
        if not self.submitted.is_file():
            return {}
        lines = [
            line for line in self.submitted.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
        ]
        entries = [json.loads(line) for line in lines]
        return {entry["run"]: entry["job"] for entry in entries if entry["cluster"] == cluster}
