"""Jobs of slurm/driver.sbatch."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.scripts.slurm import need_cluster, said, until

SCRIPT = ROOT / "slurm" / "driver.sbatch"
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


class Driver:
    """One job of the script."""

    def __init__(self, log: Path, *arguments: str, options: tuple[str, ...] = ()) -> None:
        self.log = log
        own = ["--parsable", "--mem=800", "--time=20", f"--output={self.log}", f"--chdir={ROOT}"]
        self.job = said("sbatch", *own, *options, str(SCRIPT), *arguments)

    def fields(self) -> dict[str, str]:
        words = said("scontrol", "show", "job", self.job, "-o").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def ended(self, seconds: float = 120) -> tuple[str, int]:
        """The job's last state and its script's exit code."""
        until(lambda: self.fields()["JobState"] in OVER, seconds, 0.5)
        fields = self.fields()
        return fields["JobState"], int(fields["ExitCode"].split(":")[0])

    @property
    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Submits drivers, and cancels what a failed test leaves."""
    need_cluster()
    monkeypatch.setenv("SIA_PYTHON", sys.executable)
    jobs: list[Driver] = []

    def submit(*arguments: str, options: tuple[str, ...] = ()) -> Driver:
        jobs.append(Driver(tmp_path / f"driver_{len(jobs)}.log", *arguments, options=options))
        return jobs[-1]

    yield submit
    for job in jobs:
        subprocess.run(["scancel", job.job], check=False)
