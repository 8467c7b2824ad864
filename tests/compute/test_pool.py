"""The worker pool on this machine: each step has one outcome, whatever happens to its worker or to the driver."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from sia_runner.compute import pool
from sia_runner.compute.local import Local
from sia_runner.compute.protocol import JobStopped
from sia_runner.store.lease import process_start_time
from tests.compute import steps
from tests.compute.steps import all_at_once, killed_driver, step
from tests.conftest import ROOT
from tests.scripts.slurm import until

pytest.importorskip("submitit", reason="compute=local needs sia-runner[slurm]")


@pytest.fixture
def compute():
    compute = Local(workers=1, jobs=1, pool=2)
    yield compute
    compute.end()


def worker_logs(folder):
    return list((folder / "workers").glob("*.err"))


def test_every_step_has_its_own_result_and_no_more_workers_run_than_there_are_slots(tmp_path, compute):
    log = tmp_path / "log"
    results = all_at_once(compute, tmp_path, steps.where, [(log, 0.1, n) for n in range(8)])
    assert [result[0] for result in results] == list(range(8))
    assert len({result[1] for result in results}) == 2 == len(worker_logs(tmp_path))
    assert log.read_text() == "done\n" * 8


def test_what_a_step_raises_is_raised_here_with_where_it_came_from(tmp_path, compute):
    with pytest.raises(ZeroDivisionError) as raised:
        compute.call(step(tmp_path), divmod, 1, 0)
    assert "in the job" in raised.value.__notes__[0]
    with pytest.raises(steps.Odd, match="1 2"):
        compute.call(step(tmp_path), steps.raises_what_cannot_travel)
    with pytest.raises(Exception, match="pickle"):
        compute.call(step(tmp_path), steps.returns_what_cannot_travel)
    with pytest.raises(Exception, match="pickle"):
        compute.call(step(tmp_path), lambda: None)
    assert len(worker_logs(tmp_path)) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_step_of_a_dead_worker_goes_to_another(tmp_path, compute, how):
    assert compute.call(step(tmp_path), steps.dies, how, tmp_path / "died") == "done"
    assert len(worker_logs(tmp_path)) == 2


@pytest.mark.slow
def test_a_step_that_takes_its_workers_with_it_stops_the_run_and_its_neighbours_are_done(tmp_path, compute):
    neighbour = threading.Thread(
        target=compute.call, args=(step(tmp_path, "gen_2/run"), steps.slow, 3.0, tmp_path / "log", 1)
    )
    neighbour.start()
    with pytest.raises(JobStopped, match="gen_1/run: job worker:.* 3 workers"):
        compute.call(step(tmp_path), steps.dies, signal.SIGKILL)
    neighbour.join()
    assert len((tmp_path / "log").read_text().split()) == 2


def test_a_step_that_the_cluster_cuts_is_submitted_again(tmp_path, compute):
    notes = []
    again = compute.call(step(tmp_path, notes=notes), steps.dies, signal.SIGUSR2, tmp_path / "cut")
    assert again == "done" and "ended as PREEMPTED; another one is submitted" in notes[1]


def test_workers_without_work_end_by_themselves_and_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "IDLE", 0.5)
    compute = Local(workers=1, jobs=1, pool=2)
    _, first, *_ = compute.call(step(tmp_path), steps.where, tmp_path / "log", 0.0, 1)
    until(lambda: not process_start_time(first))
    _, second, *_ = compute.call(step(tmp_path), steps.where, tmp_path / "log", 0.0, 1)
    assert second != first
    compute.end()


def test_steps_of_a_candidate_share_workers_and_others_have_a_job_of_their_own(tmp_path, compute):
    notes, log = [], tmp_path / "log"
    keys = ("gen_1/gate", "gen_1/run", "gen_1/test")
    gate, run, test = (compute.call(step(tmp_path, key, notes=notes), steps.where, log, 0.0, key) for key in keys)
    assert gate[1] == run[1] != test[1]
    assert [job.startswith("worker:") for job in notes] == [True, True, False]


def test_an_interrupt_ends_workers_and_the_next_driver_does_their_steps(tmp_path, compute):
    notes, log = [], tmp_path / "log"
    arguments = (step(tmp_path, notes=notes), steps.first_time_slow, 60, log, 1)
    threading.Thread(target=compute.call, args=arguments, daemon=True).start()
    until(log.exists, pause=0.02)
    compute.end()
    until(lambda: not (tmp_path / "gen_1" / "run" / "lease.json").exists())
    follower = Local(workers=1, jobs=1, pool=1)
    assert follower.call(step(tmp_path, submitted=notes[0]), steps.first_time_slow, 60, log, 2) == 2
    follower.end()


def test_after_the_driver_was_killed_its_step_is_collected_and_no_worker_is_left(tmp_path):
    settings = {"workers": 1, "jobs": 1, "pool": 2}
    job = killed_driver("Local", settings, tmp_path)
    worker = int((tmp_path / "gen_1" / "run" / "lease.json").read_text().partition('"pid": ')[2].partition(",")[0])
    assert Local(**settings).call(step(tmp_path, submitted=job), steps.slow, 3.0, tmp_path / "log", 8) == 7
    assert len((tmp_path / "log").read_text().split()) == 2
    until(lambda: not process_start_time(worker), 10)


def test_a_worker_without_work_ends_with_its_driver(tmp_path):
    """As when the driver is killed: nothing is sent to the worker."""
    program = """
import os, signal, sys
from pathlib import Path
from sia_runner.compute import local

print(local._Process(Path(sys.argv[1]))._pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    worker = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT, timeout=60).stdout
    assert int(worker)
    until(lambda: not process_start_time(int(worker)), 10)


def test_a_step_that_waits_for_a_slot_says_so(tmp_path, compute):
    log, states = tmp_path / "log", []
    threads = [
        threading.Thread(target=compute.call, args=(step(tmp_path, f"gen_{n}/run"), steps.slow, 1.0, log, n))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 20
    while time.monotonic() < end and len(states) < 3:
        jobs = list(compute.cluster._steps)
        states = sorted(compute.cluster.state(job).name for job in jobs) if len(jobs) == 3 else []
        if states != ["PENDING", "RUNNING", "RUNNING"]:
            states = []
        time.sleep(0.02)
    assert states == ["PENDING", "RUNNING", "RUNNING"]
    for thread in threads:
        thread.join()
