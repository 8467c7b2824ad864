"""The worker pool on a real SLURM cluster: steps of one allocation, and what may happen to each."""

import os
import signal
import threading
import time

import pytest

from sia_runner.compute.protocol import ComputeError, JobStopped
from sia_runner.compute.slurm import Slurm
from tests.compute import steps
from tests.compute.steps import all_at_once, killed_driver, step
from tests.conftest import ROOT
from tests.scripts.slurm import bring_up, need_cluster, node_of, preempt, said, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


def settings(slots=2, **resources):
    default = {"partition": "cpu", "cpus": 1, "memory_gb": 0.25, "minutes": 5, **resources}
    return {"workers": 1, "site": "none", "warn_seconds": 20, "resources": {"default": default}, "pool": slots}


def allocations():
    """The allocations of this test, by its working folder: other tests use the same cluster beside it."""
    rows = said("squeue", "--noheader", "--name=sia:pool", "--format=%i %Z").splitlines()
    return [job for job, folder in map(str.split, rows) if folder == os.getcwd()]


@pytest.fixture
def compute(monkeypatch, tmp_path):
    """Makes a compute; none of its allocations is left after the test."""
    need_cluster()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = []

    def make(slots=2, **resources):
        made.append(Slurm(**settings(slots, **resources)))
        return made[-1]

    yield make
    for each in made:
        each.cluster.end()
    until(lambda: not allocations(), 30)


@pytest.fixture
def at_work(tmp_path, compute):
    """Begin a step that is slow the first time; its allocation, and a function that waits for its end."""
    outcome, notes, log = [], [], tmp_path / "log"
    make = compute(1)

    def call():
        try:
            outcome.append(make.call(step(tmp_path, notes=notes), steps.first_time_slow, 60, log, 7))
        except JobStopped as stopped:
            outcome.append(stopped)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    until(log.exists, pause=0.02)

    def ended():
        thread.join(90)
        return outcome[0], notes, log.read_text().count("done")

    return allocations()[0], ended


def test_all_steps_run_in_one_allocation_side_by_side(tmp_path, compute):
    began = time.monotonic()
    results = all_at_once(compute(4), tmp_path, steps.where, [(tmp_path / "log", 1.0, n) for n in range(8)])
    assert time.monotonic() - began < 7
    assert [result[0] for result in results] == list(range(8))
    assert {result[2] for result in results} == set(allocations())
    assert len({result[3] for result in results}) == 4


def test_what_a_step_raises_is_raised_here(tmp_path, compute):
    with pytest.raises(ZeroDivisionError):
        compute().call(step(tmp_path), divmod, 1, 0)


def test_each_slot_has_a_gpu_of_its_own(tmp_path, compute):
    on_gpu = compute(2, partition="gpu", gpus=1)
    results = all_at_once(on_gpu, tmp_path, steps.where, [(tmp_path / "log", 1.0, n) for n in range(2)])
    job = said("scontrol", "show", "job", allocations()[0])
    assert "gres/gpu=2" in job and all(result[4] for result in results)


def test_a_step_that_is_killed_runs_again_and_its_neighbour_does_not(tmp_path, compute):
    both = compute(2)
    neighbour = threading.Thread(
        target=both.call, args=(step(tmp_path, "gen_2/run"), steps.slow, 3.0, tmp_path / "log", 1)
    )
    neighbour.start()
    assert both.call(step(tmp_path), steps.dies, signal.SIGKILL, tmp_path / "died") == "done"
    neighbour.join()
    assert len((tmp_path / "log").read_text().split()) == 2 and len(allocations()) == 1


@pytest.mark.slow
def test_when_sruns_are_killed_the_step_still_counts_once_and_its_worker_ends(tmp_path, compute):
    one, log, results = compute(1), tmp_path / "log", []
    arguments = (step(tmp_path), steps.slow, 8.0, log, 7)
    thread = threading.Thread(target=lambda: results.append(one.call(*arguments)))
    thread.start()
    until(log.exists, pause=0.02)
    sruns = said("pgrep", "-f", f"^srun --jobid={allocations()[0]}").split()
    for stop in (signal.SIGSTOP, signal.SIGKILL):  # an srun of two whose other one ends may still cancel the step
        for pid in sruns:
            os.kill(int(pid), stop)
    thread.join()
    assert results == [7] and len(log.read_text().split()) == 2
    one.cluster.end()
    until(lambda: not allocations(), 90)  # one end of a pipe is lost without a word: it takes a minute


def test_a_cancelled_allocation_stops_the_run(at_work):
    job, ended = at_work
    said("scancel", job)
    stopped, _, times = ended()
    assert "was cancelled; resume submits it again" in str(stopped) and times == 1


@pytest.mark.slow
@pytest.mark.alone  # all jobs of its node are preempted
def test_a_preempted_allocation_is_followed_by_another(at_work):
    job, ended = at_work
    preempt(job)
    value, notes, times = ended()
    assert (value, times) == (7, 2) and any("another one is submitted" in note for note in notes)
    until(lambda: job not in allocations())


@pytest.mark.slow
@pytest.mark.alone
def test_when_a_node_is_lost_its_step_runs_in_another_allocation(at_work):
    job, ended = at_work
    try:
        said("scontrol", "update", f"nodename={node_of(job)}", "state=down", "reason=test")
        assert ended()[::2] == (7, 2)
        assert job not in allocations()
    finally:
        bring_up()


def test_near_its_end_no_worker_is_started_in_an_allocation(tmp_path, compute):
    one = compute(1)
    first = one.call(step(tmp_path), steps.where, tmp_path / "log", 0.0, 1)
    one.cluster._start.__self__._until = 0.0
    assert one.call(step(tmp_path), steps.where, tmp_path / "log", 0.0, 2)[2] == first[2]
    one.cluster._slots[0].worker.end()
    until(lambda: not one.cluster._slots[0].worker.alive)
    assert one.call(step(tmp_path), steps.where, tmp_path / "log", 0.0, 3)[2] != first[2]


def test_an_idle_worker_does_not_keep_the_place_of_the_next_allocation(tmp_path, compute):
    """Both workers at once, then one of them is needed when the allocation is about to end."""
    both = compute(2)
    first = all_at_once(both, tmp_path, steps.where, [(tmp_path / "log", 1.0, n) for n in range(2)])
    assert len({result[3] for result in first}) == 2 and len(allocations()) == 1
    both.cluster._start.__self__._until = 0.0
    both.cluster._free.queue[-1].worker.end()
    until(lambda: sum(slot.worker.alive for slot in both.cluster._slots) == 1)
    again = both.call(step(tmp_path), steps.where, tmp_path / "log", 0.0, 3)
    assert again[2] != first[0][2]
    until(lambda: allocations() == [again[2]], 30)


def test_a_job_of_its_own_finds_no_idle_allocation_in_its_way(tmp_path, compute):
    one = compute(1)
    one.call(step(tmp_path, "gen_1/run"), steps.where, tmp_path / "log", 0.0, 1)
    assert len(allocations()) == 1
    one.call(step(tmp_path, "gen_1/test"), steps.where, tmp_path / "log", 0.0, 1)
    until(lambda: not allocations(), 10)


def test_workers_that_never_come_to_life_end_the_run_with_what_they_said(tmp_path, compute):
    broken = compute(1, setup=["echo module: not found >&2", "exit 1"])
    with pytest.raises(JobStopped, match="3 workers ended .*(module: not found|Exited with exit code 1)"):
        broken.call(step(tmp_path), steps.slow, 0.0, tmp_path / "log", 1)


def test_what_slurm_refuses_is_said(tmp_path, compute):
    with pytest.raises(ComputeError, match="compute.pool: sbatch says: "):
        compute(100).check(["run"])
    with pytest.raises(JobStopped, match="salloc refused the allocation for compute.pool: .*Invalid partition"):
        compute(1, partition="nowhere").call(step(tmp_path), steps.slow, 0.0, tmp_path / "log", 1)


def test_after_the_driver_was_killed_its_step_is_collected_and_the_allocation_ends(tmp_path, compute):
    follower = compute()
    job = killed_driver("Slurm", settings(), tmp_path)
    assert follower.call(step(tmp_path, submitted=job), steps.slow, 3.0, tmp_path / "log", 8) == 7
    assert len((tmp_path / "log").read_text().split()) == 2
    until(lambda: not allocations(), 30)
