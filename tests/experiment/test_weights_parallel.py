"""Several processes for one update: which GPU each sees, and what is made of how they ended."""

import pytest

from sia_runner.compute import task
from sia_runner.compute.task import RETURNED, StageOutcome
from sia_runner.config.experiment import check_experiment
from sia_runner.experiment.weights import parallel
from sia_runner.stage_results import BuildResult
from sia_runner.wire.grants import ProviderDown
from tests.config.test_experiment import composed

GOOD = BuildResult("", adapter_sha256="first")


def returned(result):
    return StageOutcome(RETURNED, result)


@pytest.fixture
def algorithm():
    return check_experiment(composed("task=arithmetic", "trainer=grpo", "trainer.processes=2")).trainer


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "4,6"}, ["4", "6"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c"}, ["GPU-a", "GPU-b"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["", ""]),
    ],
)
def test_each_sees_one_gpu_of_those_that_were_visible_as_its_first(given, seen):
    for rank in (0, 1):
        environ = {**given, "LOCAL_RANK": str(rank)}
        parallel._select_gpu(environ, rank)
        assert (environ["CUDA_VISIBLE_DEVICES"], environ["LOCAL_RANK"]) == (seen[rank], "0")


def test_the_result_is_the_first_ones(algorithm):
    assert (
        parallel._combined_result([returned(GOOD), returned(BuildResult("", adapter_sha256="second"))], algorithm, "")
        == GOOD
    )


def test_what_one_raised_is_raised_though_another_ended_well(algorithm):
    with pytest.raises(ProviderDown, match="gone"):
        parallel._combined_result([returned(GOOD), task.error_outcome(ProviderDown("gone"))], algorithm, "")


def test_a_fault_of_one_is_the_fault_of_all(algorithm):
    fault = BuildResult("grpo: no reward", unscored=True)
    assert parallel._combined_result([returned(GOOD), returned(fault)], algorithm, "") == fault


def test_what_torch_raises_in_the_others_when_one_is_gone_is_not_what_happened(algorithm):
    result = parallel._combined_result(
        [task.error_outcome(RuntimeError("Connection reset by peer"))], algorithm, "exit code 1"
    )
    assert result.fault == "grpo: a process of the training was lost: exit code 1"
    with pytest.raises(RuntimeError, match="ours"):  # all are there: it is a fault of the program
        parallel._combined_result([task.error_outcome(RuntimeError("ours")), returned(GOOD)], algorithm, "")


def test_a_lost_process_is_not_the_candidates_fault(algorithm):
    result = parallel._combined_result([returned(GOOD)], algorithm, "exit code 1, see processes/log in gen_2")
    assert result.unscored
    assert result.fault == "grpo: a process of the training was lost: exit code 1, see processes/log in gen_2"


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
