"""Several processes for one update: which GPU each sees, and what is made of how they ended."""

import os

import pytest

from sia_runner.compute import task
from sia_runner.compute.task import RETURNED, StageOutcome
from sia_runner.config.experiment import check_experiment
from sia_runner.config.training import PolicyConfig, VllmSettings
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.weights import parallel
from sia_runner.stage_results import BuildResult
from sia_runner.store.run_directory import RunDir
from sia_runner.wire.grants import ProviderDown
from tests.config.test_experiment import composed

GOOD = BuildResult("", adapter_sha256="first")


def returned(result):
    return StageOutcome(RETURNED, result)


@pytest.fixture
def algorithm():
    return check_experiment(composed("task=arithmetic", "trainer=grpo", "trainer.processes=2")).trainer


@pytest.mark.parametrize(
    ("given", "there", "seen"),
    [
        ({}, ["0", "1"], ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "4,6"}, ["0", "1"], ["4", "6"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c"}, [], ["GPU-a", "GPU-b"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["0", "1"], ["", ""]),
        ({}, ["0"], [None, None]),  # fewer than processes: those compute on CPUs, or the update was refused
        ({}, [], [None, None]),
    ],
)
def test_each_sees_one_gpu_of_those_that_were_visible_as_its_first(monkeypatch, given, there, seen):
    monkeypatch.setattr(parallel, "_all_gpus", lambda: there)
    for rank in (0, 1):
        environ = {**given, "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
        parallel._select_gpu(environ, rank)
        assert (environ.get("CUDA_VISIBLE_DEVICES"), environ["LOCAL_RANK"]) == (seen[rank], "0")


def test_processes_without_a_gpu_start_as_many_servers_as_are_wanted(monkeypatch):
    pytest.importorskip("torch", reason="training needs torch")
    from sia_runner.policy.vllm_servers import cards_of_servers

    monkeypatch.setattr(parallel, "_all_gpus", list)
    for name in ("CUDA_VISIBLE_DEVICES", "SIA_SERVER_CARDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    parallel._select_gpu(os.environ, 0)
    spec = PolicyConfig(base="a/model", backend="vllm", vllm=VllmSettings(servers=2))
    assert cards_of_servers(spec) == [None, None]


def test_the_gpus_that_nobody_trains_on_are_left_for_servers():
    environ = {"CUDA_VISIBLE_DEVICES": "4,5,6,7", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3"}
    parallel._select_gpu(environ, 0)
    assert (environ["CUDA_VISIBLE_DEVICES"], environ["SIA_SERVER_CARDS"]) == ("4", "7")


def test_the_result_is_the_first_ones(algorithm):
    assert (
        parallel._combined_result([returned(GOOD), returned(BuildResult("", adapter_sha256="second"))], algorithm)
        == GOOD
    )


def test_what_one_raised_is_raised_though_another_ended_well(algorithm):
    with pytest.raises(ProviderDown, match="gone"):
        parallel._combined_result([returned(GOOD), task.error_outcome(ProviderDown("gone"))], algorithm)


def test_a_fault_of_one_is_the_fault_of_all(algorithm):
    fault = BuildResult("grpo: no reward", unscored=True)
    assert parallel._combined_result([returned(GOOD), returned(fault)], algorithm) == fault


def test_what_torch_raises_in_the_others_when_one_is_gone_is_not_what_happened(algorithm):
    gone = task.error_outcome(RuntimeError("Connection reset by peer"))
    assert parallel._combined_result([gone], algorithm) is None
    with pytest.raises(RuntimeError, match="ours"):  # all are there: it is a fault of the program
        parallel._combined_result([task.error_outcome(RuntimeError("ours")), returned(GOOD)], algorithm)


@pytest.mark.parametrize(("checkpoints", "starts"), [(0, 3), (2, 4)])
def test_after_a_lost_process_all_start_again_but_three_times_at_most_from_one_checkpoint(
    tmp_path, monkeypatch, algorithm, checkpoints, starts
):
    config = check_experiment(composed("task=arithmetic", "trainer=grpo", "trainer.processes=2"))
    run, started = RunDir(tmp_path), []

    def start(folder, processes, nodes):
        started.append((processes, nodes))
        if len(started) <= checkpoints:
            (run.generation(2).training / f"step-{len(started)}").mkdir(parents=True)
        task.write_outcome(folder / "0", returned(GOOD))
        return 1

    monkeypatch.setattr(parallel, "_run_processes", start)
    monkeypatch.setattr(parallel, "_missing_gpus", lambda config, algorithm: "")
    result = parallel.update_weights_in_parallel(RunContext(config, run), 2, 1, algorithm)
    assert started == [(2, 1)] * starts
    assert result.unscored  # it is not the candidate's fault
    assert result.fault == "grpo: a process of the training was lost: exit code 1, see processes/log in gen_2"
    assert run.generation(2).path.joinpath("training.log").read_text().count("started again") == starts - 1


def test_on_several_nodes_srun_starts_one_launcher_on_each(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    command = parallel._launcher(8, 2)
    assert command[0] == "srun" and {"--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"} <= {*command}
    assert {"--nproc_per_node=4", "--nnodes=2"} <= {*command} and "--standalone" not in command
    assert "--standalone" in parallel._launcher(8, 1) and "srun" not in parallel._launcher(8, 1)


def test_fewer_gpus_than_processes_are_told_before_anything_is_started(monkeypatch):
    torch = pytest.importorskip("torch", reason="training needs torch")
    config = check_experiment(composed("task=arithmetic", "trainer=grpo", "trainer.processes=4"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    four = config.trainer
    assert (
        parallel._missing_gpus(config, four) == "trainer.processes=4 needs a GPU for each of them; this machine shows 2"
    )
    sharded = four.model_copy(update={"processes": 1, "shards": 3})
    assert parallel._missing_gpus(config, sharded).startswith("trainer.shards=3 needs a GPU for each of them")
    assert parallel._missing_gpus(config, four.model_copy(update={"processes": 2})) == ""
    cpu = check_experiment(composed("task=arithmetic", "trainer=grpo", "target_agent.policy.device=cpu"))
    assert parallel._missing_gpus(cpu, four) == ""
