"""What tests on a real SLURM cluster share: it has to be up (`slurm/local/cluster.sh up`)."""

import os
import signal
import subprocess
import time
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT, Cli

CLUSTER = ROOT / "slurm" / "local" / "cluster.sh"
LITTLE = ["compute=slurm", "compute/site=local"]
# of a candidate its run alone is a job, and training: for tests of what happens to one job
FEW_JOBS = [*LITTLE, *(f"+compute.resources.{kind}.run_in=driver" for kind in ("gate", "test"))]
# at the end of a harness: its run on dev + val takes a while, in which something can happen to it
SLOW = "import time; time.sleep(6 if 20 < len(asked) < 200 else 0)\n"


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def need_cluster() -> None:
    if reason := _why_no_cluster():
        pytest.skip(reason)


@cache
def _why_no_cluster() -> str:
    """Ask once in a session: where SLURM's commands are and no cluster is, each call takes nine seconds."""
    try:
        nodes = said("sinfo", "--noheader", "--Node", "--format=%N").split()
    except (OSError, subprocess.SubprocessError) as error:
        return f"no SLURM cluster answers ({type(error).__name__}); start one: slurm/local/cluster.sh up"
    if not {"c1", "c2", "g1"} <= set(nodes):
        return "this cluster is not the one of slurm/local/cluster.sh, which these tests do things to"
    return ""


def until(happened, seconds: float = 60, pause: float = 0.1) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"did not happen in {seconds} s"
        time.sleep(pause)


class OnCluster:
    """A run whose driver is a process here, with its output in a file: jobs may outlive it."""

    def __init__(self, cli: Cli) -> None:
        self.cli, self.log = cli, cli.folder / "driver.log"
        self.driver: subprocess.Popen | None = None

    def start(self, *args: str) -> "OnCluster":
        with self.log.open("a") as out:
            self.driver = subprocess.Popen(
                self.cli.command(*args), cwd=self.cli.folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        return self

    def resume(self, *args: str) -> "OnCluster":
        return self.start(f"resume={self.cli.run}", *args)

    def ended(self, seconds: float = 240) -> int:
        assert self.driver is not None
        return self.driver.wait(seconds)

    def kill(self) -> None:
        assert self.driver is not None
        self.driver.send_signal(signal.SIGKILL)
        self.driver.wait()

    @property
    def said(self) -> str:
        return self.log.read_text()

    def events(self, event: str) -> list[dict]:
        return [entry for entry in self.cli.journal if entry["event"] == event]

    def jobs(self, step: str) -> list[str]:
        """Ids of all jobs that were submitted for `step`."""
        if not (self.cli.run / "journal.jsonl").exists():
            return []
        return [entry["job"] for entry in self.events("job") if entry["step"] == step]

    def running(self, step: str, seconds: float = 90) -> str:
        """Wait until the stage itself is at work in the newest job of `step`; the job's id."""
        lease = self.cli.run / "jobs" / step / "lease.json"
        until(lambda: self.jobs(step) and lease.exists() and state(self.jobs(step)[-1]) == "RUNNING", seconds)
        return self.jobs(step)[-1]

    def assert_counted_once(self) -> None:
        steps = [entry["step"] for entry in self.events("done")]
        assert len(steps) == len(set(steps))

    def close(self) -> None:
        """Nothing of a failed test goes on."""
        if self.driver and self.driver.poll() is None:
            self.kill()
        if (self.cli.run / "journal.jsonl").exists():
            for entry in self.events("job"):
                subprocess.run(["scancel", entry["job"]], check=False, capture_output=True)


def state(job: str) -> str:
    lines = subprocess.run(
        ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return lines[0] if lines else ""


def node_of(job: str) -> str:
    return said("squeue", "--noheader", "--format=%N", f"--jobs={job}")


def preempt(job: str) -> None:
    """By a job of the partition `short` that wants the whole node."""
    wants = ["-p", "short", f"--nodelist={node_of(job)}", "--exclusive", "--output=/dev/null"]
    said("sbatch", *wants, "--wrap=sleep 1")
    until(lambda: state(job) != "RUNNING", pause=0.05)


def controller() -> int:
    """Process id of slurmctld."""
    config = said("scontrol", "show", "config")
    line = next(line for line in config.splitlines() if line.startswith("SlurmctldPidFile"))
    return int(Path(line.partition("=")[2].strip()).read_text())


def essence(cli: Cli) -> tuple:
    """All that may not depend on where stages ran and what happened to them."""
    keep = ("n", "lever", "title", "status", "reason", "val", "outcomes")
    return [{key: g[key] for key in keep} for g in cli.summary["generations"]], cli.summary["best"]


def bring_up(accounting: bool = True) -> None:
    environment = {**os.environ, "SLURM_ACCOUNTING": str(int(accounting))}
    subprocess.run([str(CLUSTER), "up"], check=True, capture_output=True, env=environment, timeout=120)
