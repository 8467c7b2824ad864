"""Weights are trained in a job of a real SLURM cluster: the adapter of a run inline, though the job is preempted."""

import os
import signal

import pytest

from tests.arithmetic import SMALL
from tests.conftest import Cli
from tests.scripts.slurm import FEW_JOBS, OnCluster, bring_up, essence, need_cluster, preempt, said, until

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.alone, pytest.mark.timeout(900)]

EXPERIMENT = ["task=arithmetic", "trainer=grpo", "max_gen=2", "seed=4", "trainer.learning_rate=1e-3", *SMALL]
EXPERIMENT += ["trainer.steps=6", "trainer.prompts_per_step=8", "trainer.group_size=4", "trainer.checkpoint_every=1"]
# requests that arrive together are answered together, and sums over other batches round otherwise
EXPERIMENT += ["target_agent.policy.max_batch_size=1"]
MEMORY = ["compute.resources.default.memory_gb=2", "compute.resources.train.memory_gb=3"]
GPU = ["compute.resources.train.partition=gpu", "compute.resources.train.gpus=1"]
BUILD = "gen_2/build"


@pytest.fixture(scope="module", autouse=True)
def _cluster():
    need_cluster()


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    cli = Cli(tmp_path_factory.mktemp("inline"))
    done = cli(*EXPERIMENT, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return cli


@pytest.fixture
def run(cli):
    one = OnCluster(cli)
    yield one
    one.close()


def training_log(run):
    log = run.cli.run / "gen_2" / "training.log"
    return log.read_text() if log.is_file() else ""


def test_generations_go_to_cpu_nodes_and_training_to_a_gpu_where_preempted_it_goes_on_from_its_checkpoint(run, inline):
    """What a job without any signal leaves behind is in test_kill_in_training.py; that it is requeued, in
    test_slurm.py."""
    run.start(*EXPERIMENT, *FEW_JOBS, *MEMORY, *GPU)
    job = run.running(BUILD, 300)
    assert said("squeue", "--noheader", "--format=%P %b", f"--jobs={job}") == "gpu gres:gpu:1"
    until(lambda: "step 2/6" in training_log(run), 200, 0.02)
    preempt(job)
    assert run.ended(600) == 0, run.said
    assert "resumed after step" in training_log(run)
    assert run.jobs(BUILD) == [job]
    assert "job left: cut: preempted" in (run.cli.run / "jobs" / BUILD / f"{job}_0_log.err").read_text()
    kinds = {entry["step"]: entry["kind"] for entry in run.events("job")}
    assert kinds == {"gen_1/run": "run", BUILD: "train", "gen_2/run": "run"}
    where = {step: said("sacct", "-nX", "-o", "partition", f"--jobs={run.jobs(step)[0]}") for step in kinds}
    assert where == {"gen_1/run": "cpu", BUILD: "gpu", "gen_2/run": "cpu"}
    run.assert_counted_once()
    assert essence(run.cli) == essence(inline)
    name = "gen_2/adapter/adapter_model.safetensors"
    assert (run.cli.run / name).read_bytes() == (inline.run / name).read_bytes()


TWO_NODES = ["trainer.processes=2", "target_agent.policy.device=cpu"]
JOB = ["compute.resources.train.nodes=2", "compute.resources.train.gpus=0", "compute.resources.train.partition=cpu"]


def ranks(run):
    """The processes of this run's update that are alive on this machine, which is every node, by process id."""
    lines = [line for line in said("ps", "-eo", "pid=,args=").splitlines() if f"{run.cli.run}/gen_2/processes" in line]
    return [int(line.split()[0]) for line in lines if "torch.distributed.run" not in line]


def test_an_update_over_two_nodes_goes_on_after_a_killed_rank_and_a_lost_node(run, tmp_path):
    alone = Cli(tmp_path / "alone")
    alone.folder.mkdir()
    done = alone(*EXPERIMENT, *TWO_NODES, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    run.start(*EXPERIMENT, *TWO_NODES, *FEW_JOBS, *MEMORY, *JOB)
    job = run.running(BUILD, 300)
    assert said("squeue", "--noheader", "--format=%D %N", f"--jobs={job}") == "2 c[1-2]"
    until(lambda: "step 1/6" in training_log(run), 300, 0.02)
    assert len(ranks(run)) == 2
    os.kill(ranks(run)[-1], signal.SIGKILL)
    until(lambda: "the processes are started again" in training_log(run), 120, 0.1)
    until(lambda: "step 3/6" in training_log(run), 300, 0.02)
    said("scontrol", "update", "nodename=c2", "state=down", "reason=test")
    try:
        until(lambda: not ranks(run), 120)
    finally:
        bring_up()  # the node too
    assert run.ended(600) == 0, run.said
    assert training_log(run).count("resumed after step") >= 2
    run.assert_counted_once()
    assert essence(run.cli) == essence(alone)
    name = "gen_2/adapter/adapter_model.safetensors"
    assert (run.cli.run / name).read_bytes() == (alone.run / name).read_bytes()
    assert not ranks(run) and not said("squeue", "--noheader", f"--jobs={job}", "--states=R")
