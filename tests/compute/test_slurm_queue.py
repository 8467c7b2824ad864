"""The states of jobs, as a real controller reports them."""

import os
import signal
import subprocess
import time

import pytest

from sia_runner.compute.protocol import JobStopped
from sia_runner.compute.slurm import QueueMonitor, Slurm, queue_positions
from tests.compute import steps
from tests.scripts.slurm import controller, need_cluster, said, until

pytestmark = pytest.mark.slurm
QUIET = ["--parsable", "--output=/dev/null", "--mem=100"]


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    need_cluster()


@pytest.fixture
def job():
    """Runs for a minute."""
    job = said("sbatch", *QUIET, "--wrap=sleep 60")
    yield job
    subprocess.run(["scancel", job], check=False)


@pytest.fixture
def watch(monkeypatch):
    """Asks for nothing any more when the test is over."""
    monitor, jobs = QueueMonitor(), set()
    state = monitor.state
    monkeypatch.setattr(monitor, "state", lambda job: (jobs.add(job), state(job))[1])
    yield monitor
    for job in jobs:
        monitor.forget(job)
    until(lambda: not monitor.silence())


def becomes(watch, job, name, seconds=30):
    until(lambda: (state := watch.state(job)) is not None and state.name == name, seconds)


def test_a_job_is_followed_to_its_end(watch, job):
    becomes(watch, job, "RUNNING")
    said("scancel", job)
    becomes(watch, job, "CANCELLED")


def test_why_a_job_waits_is_known(watch):
    job = said("sbatch", *QUIET, "--hold", "--wrap=true")
    becomes(watch, job, "PENDING")
    assert watch.state(job).reason == "JobHeldUser"
    said("scancel", job)


def test_one_that_nobody_knows_is_lost_beside_one_that_runs(watch, job):
    becomes(watch, "1", "LOST")
    becomes(watch, job, "RUNNING")
    assert watch.state("1").name == "LOST"


def test_all_jobs_are_asked_for_at_once(watch, job, monkeypatch, tmp_path):
    """The real squeue, which leaves a line for each time that it is called."""
    real = said("which", "squeue")
    (tmp_path / "squeue").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\nexec {real} "$@"\n')
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    jobs = [job, "1", "2", "3"]
    began = time.monotonic()
    until(lambda: all(watch.state(each) for each in jobs))
    time.sleep(3)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) <= 2 + time.monotonic() - began
    assert all(each in calls[-1] for each in jobs)


@pytest.mark.slow
@pytest.mark.alone
def test_no_answer_is_no_news(watch, job, monkeypatch):
    """Also when squeue has given up."""
    becomes(watch, job, "RUNNING")
    answers, ask = [], watch._squeue
    monkeypatch.setattr(watch, "_squeue", lambda jobs: (answers.append(states := ask(jobs)), states)[1])
    away, end = controller(), time.monotonic() + 60
    os.kill(away, signal.SIGSTOP)
    try:
        while None not in answers:
            assert time.monotonic() < end, "squeue did not give up"
            began = time.monotonic()
            assert watch.state(job).name == "RUNNING"
            assert time.monotonic() - began < 0.5
            time.sleep(0.5)
        time.sleep(1)  # what squeue said has been noted by then
        assert watch.state(job).name == "RUNNING"
    finally:
        os.kill(away, signal.SIGCONT)


def test_where_a_job_stands_in_its_queue_is_known(watch):
    """Held, so that both wait; the one submitted first has waited longer."""
    first, second = (said("sbatch", *QUIET, "--hold", "--wrap=true") for _ in range(2))
    becomes(watch, second, "PENDING")
    where = queue_positions([watch.state(second).queue])
    among = where[first].partition(" of ")[2]
    assert where[second].endswith(f" of {among}") and {first, second} <= set(where)
    assert sorted(int(position.partition(" ")[0]) for position in where.values()) == list(range(1, int(among) + 1))
    for job in (first, second):
        said("scancel", job)


def test_when_a_job_is_expected_to_start_is_known_where_the_cluster_says_so(watch):
    later = said("sbatch", *QUIET, "--begin=now+3600", "--wrap=true")
    becomes(watch, later, "PENDING")
    state = watch.state(later)
    assert state.reason == "BeginTime" and state.start.startswith("20")
    said("scancel", later)


def carried_out(tmp_path, notes=None, **resources):
    default = {"partition": "cpu", "cpus": 1, "memory_gb": 0.3, "minutes": 5, **resources}
    step = steps.step(tmp_path, notes=notes)
    return Slurm(1, "none", 20, {"default": default}).call(step, steps.where, tmp_path / "log", 0.0, 7)


def test_a_job_that_is_submitted_without_an_environment_finds_its_packages(tmp_path):
    assert carried_out(tmp_path, extra={"export": "NONE"})[0] == 7


@pytest.mark.parametrize(
    "wrapper", ['echo "since job 99: new"; exec %s "$@"', 'exec %s --parsable "$@"', 'exec %s --quiet "$@"']
)
def test_behind_a_wrapper_of_the_site_the_job_is_the_one_that_was_submitted(tmp_path, monkeypatch, wrapper):
    (tmp_path / "sbatch").write_text("#!/bin/sh\n" + wrapper % said("which", "sbatch") + "\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    notes = []
    _, _, job, *_ = carried_out(tmp_path, notes)
    assert notes == [job]


@pytest.mark.slow
def test_a_time_limit_that_is_reached_during_setup_names_its_key(tmp_path):
    with pytest.raises(JobStopped, match=r"reached its time limit; resume with compute\.resources\.run\.minutes="):
        carried_out(tmp_path, minutes=1, setup=["sleep 150"])
