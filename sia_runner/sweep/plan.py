"""The folder of a sweep: what is to be run in it, what came of each run, and the names of its files.

plan.json             every run with its overrides, and the command that declared them
outcomes/<run>.json   how the newest process of a run ended: written by that process, one file each
jobs/                 one folder a job (what it said is in there); submitted.jsonl: which job carries out which run
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
    """One run of a sweep. `name` is its folder's; `overrides` are those of the command line, in order."""

    name: str
    overrides: tuple[str, ...]
    task: str
    mode: str
    seed: int


@dataclass(frozen=True, slots=True)
class Plan:
    args: tuple[str, ...]  # of the command, without what names the folder
    cwd: str
    runs: tuple[Planned, ...]


@dataclass(frozen=True, slots=True)
class SweepDir:
    path: Path

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs"

    @property
    def submitted(self) -> Path:
        return self.jobs / "submitted.jsonl"

    def is_sweep(self) -> bool:
        return self.plan.is_file() and not (self.path / "config.yaml").is_file()

    def write_plan(self, plan: Plan) -> None:
        write_json(self.plan, asdict(plan))

    def read_plan(self) -> Plan:
        if not self.is_sweep():
            raise RunError(f"{self.path}: no sweep there (plan.json is missing)")
        kept = read_json(self.plan)
        runs = tuple(Planned(**(run | {"overrides": tuple(run["overrides"])})) for run in kept["runs"])
        return Plan(tuple(kept["args"]), kept["cwd"], runs)

    def outcome(self, name: str) -> Path:
        return self.path / "outcomes" / f"{name.replace('/', '+')}.json"

    def ended(self, name: str) -> Json | None:
        """``{"code": exit code, "said": [lines]}`` of the newest process of that run; None while there is none."""
        try:
            return read_json(self.outcome(name))
        except FileNotFoundError:
            return None

    def end(self, name: str, code: int, said: Sequence[str] = ()) -> None:
        self.outcome(name).parent.mkdir(parents=True, exist_ok=True)
        write_json(self.outcome(name), {"code": code, "said": list(said)})

    def note_jobs(self, cluster: str, ids: Mapping[str, str]) -> None:
        """Run -> job, before anything waits for them; read again by whoever resumes."""
        self.jobs.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"run": name, "cluster": cluster, "job": job}) for name, job in ids.items()]
        with self.submitted.open("a", encoding="utf-8") as stream:
            stream.write("".join(f"{line}\n" for line in lines))
            stream.flush()
            os.fsync(stream.fileno())

    def noted_jobs(self, cluster: str) -> dict[str, str]:
        """Run -> the newest job that was submitted for it."""
        if not self.submitted.is_file():
            return {}
        whole = [
            line for line in self.submitted.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
        ]
        entries = [json.loads(line) for line in whole]
        return {entry["run"]: entry["job"] for entry in entries if entry["cluster"] == cluster}
