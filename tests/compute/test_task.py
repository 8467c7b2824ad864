"""A stage in its job's process: signals, and other starts of the same step."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sia_runner.compute.task import CUT, PREEMPTED, RETURNED, TIME_LIMIT, read_outcome
from tests.conftest import ROOT
from tests.scripts.slurm import until

PROGRAM = """
import sys
from pathlib import Path
from sia_runner.compute.task import StageJob
from tests.compute import steps
folder, seconds, stage_seconds = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
args = (stage_seconds, folder / "log", 1)
StageJob(folder, steps.entry, steps.slow, args, progress=folder / "checkpoints", seconds=seconds, warning=10)()
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A job with so many seconds of time limit, whose stage takes so many; there when the stage is at work."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    started = []

    def begin(limit: float, seconds: float = 60.0, wait: bool = True, environment: dict[str, str] | None = None):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(limit), str(seconds)]
        everything = {**os.environ, **(environment or {})}
        started.append(subprocess.Popen(command, cwd=ROOT, env=everything, stderr=subprocess.PIPE, text=True))
        if wait:
            until((tmp_path / "log").exists, pause=0.02)
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def requeues(folder, what):
    """The environment of a SLURM job whose `scontrol` does so."""
    folder.mkdir()
    (folder / "scontrol").write_text(f"#!/bin/sh\n{what}\n")
    (folder / "scontrol").chmod(0o755)
    return {"SLURM_JOB_ID": "1", "PATH": f"{folder}:{os.environ['PATH']}"}


def told(process, number):
    process.send_signal(number)
    assert process.wait(20) == 1


def test_a_warning_long_before_the_time_limit_is_a_preemption(start, tmp_path):
    told(start(3600), signal.SIGUSR2)
    assert (read_outcome(tmp_path).kind, read_outcome(tmp_path).value) == (CUT, PREEMPTED)


def test_a_warning_near_the_time_limit_is_that_limit(start, tmp_path):
    told(start(60), signal.SIGUSR2)
    assert (read_outcome(tmp_path).kind, read_outcome(tmp_path).value) == (CUT, TIME_LIMIT)


def test_a_stage_that_left_a_checkpoint_may_go_on_after_its_time_limit(start, tmp_path):
    process = start(60)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-1").touch()
    told(process, signal.SIGUSR2)
    assert (read_outcome(tmp_path).kind, read_outcome(tmp_path).value) == (CUT, PREEMPTED)


def test_terminated_it_leaves_no_outcome_and_the_step_to_others(start, tmp_path):
    told(start(3600), signal.SIGTERM)
    assert read_outcome(tmp_path) is None
    assert not (tmp_path / "lease.json").exists()


def test_the_requeue_it_asks_for_terminates_it_and_it_still_leaves_in_order(start, tmp_path):
    process = start(3600, environment=requeues(tmp_path / "bin", "kill -TERM $PPID $$; sleep 0.2"))
    told(process, signal.SIGUSR2)
    assert process.stderr.read() == "job left: cut: preempted\n"
    assert read_outcome(tmp_path) is None


def test_after_a_kill_without_a_signal_the_next_start_does_it_at_once(start, tmp_path):
    process = start(3600)
    process.kill()
    process.wait()
    began = time.monotonic()
    assert start(3600, 0.0, wait=False).wait(30) == 0
    assert read_outcome(tmp_path).kind == RETURNED
    assert time.monotonic() - began < 20


def test_a_second_start_waits_for_the_first_and_leaves_its_outcome_alone(start, tmp_path):
    first = start(3600, 2.0)
    second = start(3600, 2.0, wait=False)
    assert first.wait(30) == 0 and second.wait(30) == 0
    assert len((tmp_path / "log").read_text().split()) == 2
