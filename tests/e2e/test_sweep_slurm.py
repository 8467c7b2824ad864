"""A sweep as SLURM jobs: one run dies, the others do not notice, and a resume brings what is missing."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.scripts.slurm import need_cluster, said, until

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(900)]

# As grpo, with two steps. A trainer of the user's own, beside `none`, which knows none of its keys.
LITTLE = """
defaults: [grpo, _self_]
name: little
steps: 2
prompts_per_step: 8
group_size: 4
"""


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    need_cluster()


def rows(folder):
    return {row["run"]: row for row in json.loads((folder / "sweep.json").read_text())["runs"]}


def test_two_tasks_two_trainers_two_seeds_with_one_killed_run_resume_to_completeness(cli):
    (cli.folder / "mine" / "trainer").mkdir(parents=True)
    (cli.folder / "mine" / "trainer" / "little.yaml").write_text(LITTLE)
    folder = cli.folder / "sweep"
    # memory is sampled there, and a process that is just being forked counts twice
    launcher = [
        f"hydra.launcher.{key}" for key in ("cpus_per_task=1", "mem_gb=3", "timeout_min=30", "array_parallelism=3")
    ]
    driver = cli.start(
        *["-m", "--config-dir", "mine", "task=smoke,arithmetic", "trainer=none,little", "seed=0,1", "max_gen=2"],
        *["target_agent=policy", "meta_agent.trials=2", "task.splits.dev=0.05", "task.splits.val=0.1"],
        *["hydra/launcher=submitit_slurm", *launcher, "hydra.sweep.dir=sweep"],
    )
    killed = folder / "1-smoke-SIA-H-seed1"
    while not ((killed / "journal.jsonl").is_file() and '"start"' in (killed / "journal.jsonl").read_text()):
        assert driver.poll() is None, driver.stdout.read()
        time.sleep(0.1)
    os.kill(json.loads((killed / "lease.json").read_text())["pid"], signal.SIGKILL)
    output, _ = driver.communicate(timeout=600)
    assert driver.returncode == 130, output
    found = rows(folder)
    assert len(found) == 8 and found.pop(killed.name)["status"] == "cut", output
    assert {row["status"] for row in found.values()} == {"completed"}, output
    before = {path: path.read_bytes() for path in folder.glob("*/journal.jsonl") if path.parent != killed}

    again = subprocess.run(
        [sys.executable, "-m", "sia_runner", f"resume={folder}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )  # from elsewhere: the sweep knows where it was started, and with what
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.read_bytes() for path in before} == before  # finished runs were left alone
    table = json.loads((folder / "sweep.json").read_text())
    assert {row["status"] for row in table["runs"]} == {"completed"}
    assert len({row["test"]["value"] for row in table["runs"]}) > 1
    assert [(mean["task"], mean["mode"], mean["tested"]) for mean in table["means"]] == [
        (task, mode, 2) for task in ("smoke", "arithmetic") for mode in ("SIA-H", "SIA-W+H")
    ]
    steps = [json.loads(line) for line in (killed / "journal.jsonl").read_text().splitlines()]
    done = [entry["step"] for entry in steps if entry["event"] == "done"]
    assert len(done) == len(set(done)) and "resumed" in {entry["event"] for entry in steps}


def test_jobs_whose_driver_was_killed_are_found_again_and_a_requeued_one_goes_on(cli):
    folder = cli.folder / "sweep"
    launcher = [
        f"hydra.launcher.{key}" for key in ("cpus_per_task=1", "mem_gb=1", "timeout_min=30", "array_parallelism=3")
    ]
    args = ["-m", "task=smoke", "seed=0,1,2", "max_gen=3", "hydra/launcher=submitit_slurm", *launcher]
    driver = cli.start(*args, "hydra.sweep.dir=sweep")
    first = folder / "0-smoke-SIA-H-seed0"
    until(lambda: (first / "gen_1").is_dir() or driver.poll() is not None)
    jobs = {job["run"]: job["job"] for job in map(json.loads, (folder / "jobs" / "submitted.jsonl").open())}
    driver.kill()
    driver.wait()
    said("scontrol", "requeue", jobs[first.name])  # without any signal that a job could answer
    again = subprocess.run(
        [sys.executable, "-m", "sia_runner", f"resume={folder}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert set(jobs.values()) == {job["job"] for job in map(json.loads, (folder / "jobs" / "submitted.jsonl").open())}
    for name, job in jobs.items():
        assert f"{name}: completed (job {job})" in again.stdout
        steps = [json.loads(line) for line in (folder / name / "journal.jsonl").read_text().splitlines()]
        done = [entry["step"] for entry in steps if entry["event"] == "done"]
        assert len(done) == len(set(done))
        assert ("resumed" in {entry["event"] for entry in steps}) == (name == first.name)


@pytest.mark.alone  # the limit holds for the jobs of other tests, too
def test_a_sweep_larger_than_the_arrays_and_the_queue_of_the_site_is_topped_up(cli):
    """MaxArraySize is 5 on this cluster."""
    said("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=3")
    try:
        until(lambda: "MaxSubmitJobs=3" in said("scontrol", "show", "assoc_mgr", "users=root", "flags=assoc"))
        launcher = [f"hydra.launcher.{key}" for key in ("cpus_per_task=1", "mem_gb=1", "timeout_min=30")]
        args = ["-m", "task=smoke", "seed=range(8)", "max_gen=1", "hydra/launcher=submitit_slurm", *launcher]
        done = cli(*args, "hydra.sweep.dir=sweep", timeout=400)
    finally:
        said("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=-1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["status"] for row in rows(cli.folder / "sweep").values()} == {"completed"}
    assert done.stdout.count("AssocMaxSubmitJobLimit") <= 5
