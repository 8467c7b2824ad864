"""Runs on a real SLURM cluster: the scores of inline, whatever happens to jobs, nodes, the controller or the driver."""

import os
import signal
import subprocess

import pytest

from tests.conftest import Cli
from tests.harnesses import MAJORITY, WORDS
from tests.scripts.slurm import (
    FEW_JOBS,
    LITTLE,
    SLOW,
    OnCluster,
    bring_up,
    controller,
    essence,
    need_cluster,
    node_of,
    preempt,
    said,
    state,
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(400)]
RUN = "gen_1/run"


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    need_cluster()


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    """Return how the same experiment ends when it is not disturbed."""
    cli = Cli(tmp_path_factory.mktemp("inline"))
    assert cli(*cli.replay(MAJORITY + SLOW, WORDS)).returncode == 0
    return essence(cli)


@pytest.fixture
def run(cli):
    one = OnCluster(cli)
    yield one
    one.close()


@pytest.fixture
def experiment(cli):
    return [*cli.replay(MAJORITY + SLOW, WORDS), *FEW_JOBS]


def ends_as(run, inline, code=0):
    assert run.ended() == code, run.said
    run.assert_counted_once()
    assert essence(run.cli) == inline


def test_jobs_give_the_scores_of_inline(run, cli, inline):
    ends_as(run.start(*cli.replay(MAJORITY + SLOW, WORDS), *LITTLE), inline)
    assert {e["kind"] for e in run.events("job")} >= {"gate", "run", "test"}


def test_a_job_that_is_requeued_without_a_signal_runs_again(run, experiment, inline):
    job = run.start(*experiment).running(RUN)
    said("scontrol", "requeue", job)
    ends_as(run, inline)
    assert run.jobs(RUN) == [job]


def test_a_cancelled_job_stops_the_run_which_can_be_resumed(run, experiment, inline):
    job = run.start(*experiment).running(RUN)
    said("scancel", job)
    assert run.ended() == 130
    assert f"stopped: {RUN}: job {job} was cancelled; resume submits it again" in run.said
    ends_as(run.resume(), inline)
    assert len(run.jobs(RUN)) == 2


@pytest.mark.alone
def test_a_node_that_goes_down_takes_no_result_with_it(run, experiment, inline):
    job = run.start(*experiment).running(RUN)
    node = node_of(job)
    said("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        ends_as(run, inline)
    finally:
        bring_up()  # the node too


@pytest.mark.alone
def test_a_controller_that_is_away_is_waited_for(run, experiment, inline):
    """The job ends meanwhile, and the next one, which nobody took, is submitted when the controller is back."""
    run.start(*experiment).running(RUN)
    away = controller()
    os.kill(away, signal.SIGSTOP)
    try:
        until(lambda: "gen_2/run: sbatch says: " in run.said, 90)
        assert "it is tried again" in run.said and run.driver.poll() is None, run.said
    finally:
        os.kill(away, signal.SIGCONT)
    ends_as(run, inline)


def test_a_killed_driver_finds_its_job_again(run, experiment, inline):
    job = run.start(*experiment).running(RUN)
    run.kill()
    assert state(job) == "RUNNING"
    ends_as(run.resume(), inline)
    assert run.jobs(RUN) == [job]
    assert f"{RUN}: waiting for job {job}, which was submitted before" in run.said


def test_what_ended_while_the_driver_was_dead_is_collected(run, experiment, inline):
    job = run.start(*experiment).running(RUN)
    run.kill()
    until(lambda: state(job) == "COMPLETED")
    ends_as(run.resume(), inline)
    assert run.jobs(RUN) == [job]


def test_an_interrupted_driver_leaves_its_job_running(run, experiment, inline):
    job = run.start(*experiment).running(RUN)
    run.driver.send_signal(signal.SIGINT)
    assert run.ended() == 130
    assert state(job) == "RUNNING"
    ends_as(run.resume(), inline)
    assert run.jobs(RUN) == [job]


def test_a_held_job_is_said_to_be_held_once_and_waited_for(run, experiment, inline):
    run.start(*experiment, "+compute.resources.run.extra={hold: true}")
    until(lambda: "is held (JobHeldUser); scontrol release lets it go" in run.said)
    said("scontrol", "release", run.jobs(RUN)[0])
    until(lambda: run.jobs("gen_2/run"))
    until(lambda: run.said.count("is held") == 2)
    said("scontrol", "release", run.jobs("gen_2/run")[0])
    ends_as(run, inline)
    assert run.said.count(f"{RUN}: job {run.jobs(RUN)[0]} is held") == 1


def test_a_job_without_enough_memory_stops_the_run_and_names_the_key(run, cli):
    greedy = "import time; held = bytearray(b'x' * (900 << 20)); time.sleep(30)\n"
    run.start(*cli.replay(greedy + MAJORITY), *LITTLE, "+compute.resources.gate.memory_gb=0.4")
    assert run.ended() == 130, run.said
    assert "ran out of memory; resume with compute.resources.gate.memory_gb=" in run.said


def test_a_time_limit_stops_the_run_and_names_the_key(run, cli):
    endless = "import time; time.sleep(300)\n"
    run.start(*cli.replay(endless), *LITTLE, "+compute.resources.gate.minutes=1", "task.limits.gate=200")
    assert run.ended() == 130, run.said
    assert "reached its time limit; resume with compute.resources.gate.minutes=" in run.said


@pytest.mark.alone
def test_a_preempted_job_starts_again(run, experiment, inline):
    job = run.start(*experiment).running(RUN)
    preempt(job)
    ends_as(run, inline)
    assert run.jobs(RUN) == [job]


@pytest.mark.alone
def test_without_accounting_everything_is_noticed_too(run, experiment, inline):
    if os.geteuid():
        pytest.skip("the cluster is started again for this: needs root")
    until(lambda: not said("squeue", "--noheader", "--all", "--states=running,completing"), 90)  # of the test before
    bring_up(accounting=False)
    try:
        told = subprocess.run(["sacct"], capture_output=True, text=True, check=False)
        assert "disabled" in told.stderr
        job = run.start(*experiment).running(RUN)
        said("scancel", job)
        assert run.ended() == 130
        assert f"job {job} was cancelled" in run.said
        ends_as(run.resume(), inline)
    finally:
        bring_up()
