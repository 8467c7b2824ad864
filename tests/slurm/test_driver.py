"""slurm/driver.sbatch on a real cluster: the driver as a job, and what may happen to it."""

import json
import os
import time

import pytest

from sia_runner.store.lease import STALE_AFTER
from tests.harnesses import MAJORITY, WORDS
from tests.scripts.slurm import SLOW, said, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]


@pytest.fixture
def experiment(cli):
    """Two generations, of which the first takes some seconds: time for something to happen."""
    return [*cli.replay(MAJORITY + SLOW, WORDS), "compute=inline", f"hydra.run.dir={cli.run}"]


def of_journal(cli, event):
    return [entry for entry in cli.journal if entry["event"] == event]


def as_uninterrupted(cli):
    """Ended well, no step was counted twice, and both generations were accepted."""
    steps = [entry["step"] for entry in of_journal(cli, "done")]
    generations = [generation["status"] for generation in cli.summary["generations"]]
    return (
        cli.summary["status"] == "completed"
        and len(set(steps)) == len(steps)
        and generations == ["accepted", "accepted"]
    )


def running(cli):
    """The first candidate is at work on dev + val."""
    journal = cli.run / "journal.jsonl"
    until(lambda: journal.exists() and any(entry["step"] == "gen_1/run" for entry in of_journal(cli, "start")))


def test_it_carries_out_a_run_and_ends_with_its_exit_code(cli, driver):
    job = driver("task=smoke", "max_gen=1", "compute=inline", f"hydra.run.dir={cli.run}")
    assert job.ended() == ("COMPLETED", 0), job.text
    assert cli.summary["status"] == "completed"


def test_what_cannot_run_is_refused_in_one_line_of_its_log(driver):
    lines = {
        driver("task=smoke"): "driver.sbatch: hydra.run.dir=RUN (of a sweep: hydra.sweep.dir=) is missing",
        driver("hydra.run.dir=runs/${now:%H}"): "a restarted driver has to find the same folder",
        driver("task=smok", "hydra.run.dir=x"): "refused: task=smok: no such choice; did you mean 'smoke'?",
    }
    for job, line in lines.items():
        assert job.ended() == ("FAILED", 2)
        assert line in job.text and "Traceback" not in job.text


@pytest.mark.slow
def test_near_its_time_limit_it_stops_cleanly_is_requeued_and_goes_on(cli, driver, experiment):
    job = driver(*experiment)
    running(cli)
    said("scancel", "--batch", "--signal=USR1", job.job)  # what SLURM sends before the limit, to whom it sends it
    assert job.ended() == ("COMPLETED", 0), job.text
    assert job.fields()["Restarts"] == "1"
    assert len(of_journal(cli, "interrupted")) == len(of_journal(cli, "resumed")) == 1
    assert as_uninterrupted(cli)
    assert "the time limit is near" in job.text and f"resume={cli.run}" in job.text


@pytest.mark.slow
def test_requeued_without_a_word_it_goes_on(cli, driver, experiment):
    job = driver(*experiment)
    running(cli)
    said("scontrol", "requeue", job.job)
    assert job.ended() == ("COMPLETED", 0), job.text
    assert job.fields()["Restarts"] == "1" and of_journal(cli, "resumed") and as_uninterrupted(cli)


@pytest.mark.slow
def test_the_lease_of_its_predecessor_on_a_lost_node_is_waited_for(cli, driver, experiment):
    job = driver(*experiment)
    running(cli)
    said("scontrol", "requeuehold", job.job)
    until(lambda: job.fields()["JobState"] == "PENDING")
    lease = cli.run / "lease.json"
    lease.write_text(json.dumps({"nonce": "n", "host": "lost", "boot": "b", "pid": 1, "started": "1", "job": job.job}))
    touched = time.time() - STALE_AFTER + 15
    os.utime(lease, (touched, touched))
    said("scontrol", "release", job.job)
    assert job.ended() == ("COMPLETED", 0), job.text
    assert f"being written by process 1 on lost, job {job.job}" in job.text and as_uninterrupted(cli)


@pytest.mark.slow
@pytest.mark.alone
def test_preempted_it_goes_on_when_there_is_room_again(cli, driver, experiment):
    job = driver(*experiment, options=("--cpus-per-task=4", "--nodelist=c2"))
    running(cli)
    urgent = said(
        "sbatch", "--parsable", "--partition=short", "--nodelist=c2", "--cpus-per-task=4", "--mem=800",
        "--output=/dev/null", "--wrap=sleep 5",
    )  # fmt: skip
    try:
        assert job.ended(180) == ("COMPLETED", 0), job.text
    finally:
        said("scancel", urgent)
    assert int(job.fields()["Restarts"]) >= 1 and as_uninterrupted(cli)


@pytest.mark.slow
def test_cancelled_it_ends_for_good_with_the_resume_command(cli, driver, experiment):
    job = driver(*experiment)
    running(cli)
    said("scancel", job.job)
    state, _ = job.ended()
    assert state == "CANCELLED" and job.fields()["Restarts"] == "0"
    until(lambda: f"resume={cli.run}" in job.text)
    assert cli(f"resume={cli.run}").returncode == 0 and as_uninterrupted(cli)


@pytest.mark.slow
def test_as_a_job_itself_it_submits_jobs(cli, driver):
    job = driver("task=smoke", "max_gen=1", "compute=slurm", "compute/site=local", f"hydra.run.dir={cli.run}")
    assert job.ended(240) == ("COMPLETED", 0), job.text
    jobs = {entry["step"]: entry["job"] for entry in of_journal(cli, "job")}
    assert jobs and job.job not in jobs.values() and cli.summary["status"] == "completed"


@pytest.mark.slow
def test_of_a_sweep_too_it_goes_on_after_a_requeue(cli, driver):
    sweep = cli.folder / "sweep"
    launcher = ["hydra/launcher=submitit_slurm"]
    launcher += [f"hydra.launcher.{key}" for key in ("timeout_min=10", "mem_gb=1", "cpus_per_task=1")]
    long = MAJORITY + 4 * SLOW  # its runs are still at work when the driver is back
    given = [*cli.replay(long), "task=smoke", "task.limits.run=90", "seed=0,1", *launcher]
    job = driver("-m", f"hydra.sweep.dir={sweep}", *given)
    until(lambda: len(list(sweep.glob("*/journal.jsonl"))) == 2)
    said("scancel", "--batch", "--signal=USR1", job.job)
    assert job.ended() == ("COMPLETED", 0), job.text
    assert int(job.fields()["Restarts"]) >= 1 and f"resume={sweep}" in job.text
    assert len((sweep / "jobs" / "submitted.jsonl").read_text().splitlines()) == 2  # found again, not submitted again
    summaries = [json.loads(file.read_text()) for file in sweep.glob("*/summary.json")]
    assert [summary["status"] for summary in summaries] == ["completed", "completed"]
