"""Jobs as processes of this machine, through submitit."""

import json
import os
import signal
import threading
import time

import pytest

from sia_runner.compute.local import Local
from sia_runner.compute.protocol import JobStopped
from sia_runner.compute.task import read_outcome
from sia_runner.wire.grants import BudgetSpent
from tests.compute import steps
from tests.compute.steps import step
from tests.scripts.slurm import until


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    from tests.conftest import ROOT

    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def times(log):
    """Begin and end of each stage that wrote in `log`."""
    lines = [float(line) for line in log.read_text().split()]
    return lines


def test_the_id_of_a_job_is_noted_before_it_is_waited_for(tmp_path):
    notes = []
    assert Local(workers=1, jobs=1).call(step(tmp_path, notes=notes), steps.counted, tmp_path / "log", 7) == 7
    assert len(notes) == 1 and notes[0].partition(".")[0].isdigit()


def test_what_a_stage_raises_is_raised_here_as_itself(tmp_path):
    with pytest.raises(BudgetSpent) as caught:
        Local(workers=1, jobs=1).call(step(tmp_path), steps.spends_all)
    assert caught.value.scope == "generation"


def test_no_more_jobs_run_at_once_than_configured(tmp_path):
    compute, logs = Local(workers=1, jobs=1), [tmp_path / f"log_{k}" for k in range(2)]
    threads = [
        threading.Thread(target=compute.call, args=(step(tmp_path, f"gen_{k}/run"), steps.slow, 0.5, log, k))
        for k, log in enumerate(logs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = sorted(times(log) for log in logs)
    assert first[1] <= second[0]


def test_a_job_of_an_earlier_process_is_collected_and_not_done_again(tmp_path):
    notes, log = [], tmp_path / "log"
    Local(workers=1, jobs=1).call(step(tmp_path, notes=notes), steps.counted, log, 7)
    again = Local(workers=1, jobs=1)
    assert again.call(step(tmp_path, submitted=notes[0]), steps.counted, log, 8) == 7
    assert log.read_text() == "done\n"


@pytest.mark.slow
def test_a_job_that_is_lost_is_submitted_again(tmp_path):
    notes, log = [], tmp_path / "log"
    lost_step = step(tmp_path, submitted="999999999.1", notes=notes)
    assert Local(workers=1, jobs=1).call(lost_step, steps.counted, log, 8) == 8
    assert log.read_text() == "done\n"
    assert notes[0].endswith("job 999999999.1, which was submitted before")


def test_one_that_raised_is_done_again_on_resume(tmp_path):
    notes = []
    with pytest.raises(BudgetSpent):
        Local(workers=1, jobs=1).call(step(tmp_path, notes=notes), steps.spends_all)
    again = step(tmp_path, submitted=notes[0])
    assert Local(workers=1, jobs=1).call(again, steps.counted, tmp_path / "log", 8) == 8


def send(number, folder, log):
    """A signal to the job, as soon as its stage is at work."""

    def soon():
        until(log.exists, pause=0.02)
        os.kill(json.loads((folder / "gen_1" / "run" / "lease.json").read_text())["pid"], number)

    threading.Thread(target=soon).start()


def test_a_job_that_is_told_to_leave_is_submitted_again(tmp_path):
    """USR2 is what a cluster sends before it preempts; here nobody requeues."""
    notes, log = [], tmp_path / "log"
    send(signal.SIGUSR2, tmp_path, log)
    first = step(tmp_path, notes=notes)
    assert Local(workers=1, jobs=1).call(first, steps.first_time_slow, 60, log, 3) == 3
    assert log.read_text() == "done\n" * 2
    assert [note for note in notes if "ended as PREEMPTED; another one is submitted" in note]


@pytest.mark.slow
def test_a_job_that_is_terminated_leaves_no_outcome(tmp_path):
    """Whatever its harness did when the signal came to all processes of the job."""
    log = tmp_path / "log"
    send(signal.SIGTERM, tmp_path, log)
    with pytest.raises(JobStopped, match="job left: terminated"):
        Local(workers=1, jobs=1).call(step(tmp_path), steps.slow, 60, log, 3)
    assert read_outcome(tmp_path / "gen_1" / "run") is None


@pytest.mark.slow
def test_a_killed_job_stops_the_run_resumably(tmp_path):
    """Nothing says that another one would do better: somebody has to look."""
    notes, log = [], tmp_path / "log"
    send(signal.SIGKILL, tmp_path, log)
    with pytest.raises(JobStopped, match="job "):
        Local(workers=1, jobs=1).call(step(tmp_path, notes=notes), steps.slow, 60, log, 1)
    assert read_outcome(tmp_path / "gen_1/run") is None


def test_two_starts_of_one_step_never_overlap_and_count_once(tmp_path):
    """As when a job is lost to the cluster's sight and goes on all the same."""
    log, notes = tmp_path / "log", []
    first = threading.Thread(
        target=Local(workers=1, jobs=1).call, args=(step(tmp_path, notes=notes), steps.slow, 1.5, log, 1)
    )
    first.start()
    until(log.exists, pause=0.02)
    began = time.monotonic()
    assert Local(workers=1, jobs=1).call(step(tmp_path), steps.slow, 1.5, log, 2) == 1
    assert time.monotonic() - began < 30
    first.join()
    assert len(times(log)) == 2
