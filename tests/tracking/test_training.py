"""Curves of a weights update reach W&B while it runs, from a job beside the driver too; adapters with their lineage."""

import os
import time

import psutil
import pytest

from sia_runner.store.run_directory import RunDir, read_json, tree_sha256
from tests.arithmetic import SMALL
from tests.conftest import Cli
from tests.tracking import offline
from tests.tracking.conftest import OFFLINE, kill_all, sender_ended

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 24  # enough that some are told while others are still to come
EXPERIMENT = ["task=arithmetic", "trainer=grpo", "max_gen=2", "seed=4", f"trainer.steps={STEPS}",
              "trainer.prompts_per_step=2", "trainer.group_size=2", "trainer.checkpoint_every=4",
              "target_agent.policy.max_batch_size=1", "tracker=wandb", "tracker.wait=60", "compute=local", *SMALL,
              # two groups of two are often without a difference
              "trainer.early_stopping.max_uniform_groups=null"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose training is a job. After its first steps the job was stopped until some of them were told; then all
    that belongs to the run was killed, and it was resumed. `told`: how many steps the offline file had when killed."""
    cli = Cli(tmp_path_factory.mktemp("trained"))
    here = RunDir(cli.run).generation(2)
    run = cli.start(*EXPERIMENT, env={**os.environ, **OFFLINE})
    cli.told = 0
    while not cli.told:
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.2)
        if here.curve.is_file():
            stop_jobs(cli.run)  # a fast machine would be at its last step before the tracker's first row
            cli.told = len(offline.curves(cli.run))
    kill_all(cli.run)
    run.communicate()
    cli.done = len(here.curve.read_bytes().splitlines())
    done = cli(f"resume={cli.run}", env=OFFLINE, timeout=600)
    assert done.returncode == 0, done.stderr
    assert sender_ended(cli.run)
    return cli


def stop_jobs(run):
    """Stop the processes of the run's jobs, which end at `kill_all`."""
    for process in psutil.process_iter(["cmdline"]):
        if "submitit.core._submit" in (process.info["cmdline"] or []) and str(run) in process.info["cmdline"][-1]:
            for item in (process, *process.children(recursive=True)):
                item.suspend()


def built(cli):
    done = (entry for entry in cli.journal if entry["event"] == "done" and entry["step"] == "gen_2/build")
    return next(done)["result"]


def test_every_step_of_the_training_is_one_row_and_equals_the_journal_whatever_was_done_twice(trained):
    rows, journal = offline.curves(trained.run), built(trained)
    assert [(row["train/generation"], row["train/step"]) for row in rows] == [(2, n) for n in range(1, STEPS + 1)]
    for name in ("reward", "kl", "entropy"):
        assert [row[f"train/{name}"] for row in rows] == journal[name]
    assert [row["_step"] for row in offline.rows(trained.run)] == list(range(STEPS + 2))


def test_rows_come_while_the_training_runs(trained):
    assert 0 < trained.told <= trained.done < STEPS


def test_an_adapter_is_a_version_that_says_what_it_was_made_from(trained):
    here = RunDir(trained.run).generation(2)
    origin = read_json(here.adapter / "sia_adapter.json")
    (result,) = [(metadata, files) for kind, metadata, files in offline.versions(trained.run) if kind == "adapter"]
    metadata, files = result
    assert files == offline.checksums(here.adapter)
    assert metadata["sha256"] == built(trained)["adapter_sha256"] == tree_sha256(here.adapter)
    assert metadata["base_sha256"] == origin["base_sha256"] and metadata["parent"] == origin["parent"]
    assert metadata["rollouts"] == STEPS * 2 * 2 and "adapter_model.safetensors" in files
