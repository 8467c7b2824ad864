"""Settings of the policy that do not fit together are refused in one line before anything is started."""

import pytest

from sia_runner.config.experiment import check_experiment
from tests.config.test_experiment import composed, faults

URL = "target_agent.policy.base_url=http://127.0.0.1:9/v1"
VLLM = ["task=arithmetic", "target_agent=policy", "target_agent.policy.backend=vllm"]
LARGE = "target_agent.policy.base=openai/gpt-oss-120b"


def test_a_vllm_server_serves_a_base_that_it_knows_by_the_same_name():
    config = check_experiment(composed(*VLLM, LARGE, URL, "trainer=grpo"))
    assert config.target_agent.policy.backend == "vllm" and config.trainer.lora.save == []


def test_without_an_address_the_run_starts_its_servers():
    policy = check_experiment(composed("task=arithmetic", "policy=vllm", LARGE, "trainer=grpo")).target_agent.policy
    assert (policy.base_url, policy.vllm.servers, policy.vllm.command) == (None, 1, ["vllm", "serve"])


@pytest.mark.parametrize("gpus", ["4", "a100:4", "0"])
def test_several_processes_take_as_many_gpus_or_none_at_all(gpus):
    config = check_experiment(
        composed("task=arithmetic", "trainer=grpo", "trainer.processes=4", "compute=slurm",
                 f"compute.resources.train.gpus={gpus}")
    )  # fmt: skip
    assert config.trainer.processes == 4


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            [*VLLM, "policy=vllm", LARGE, URL, "target_agent.policy.vllm.servers=2"],
            "target_agent.policy.vllm.servers: of servers that the run starts; not allowed with target",
        ),
        (
            [*VLLM, LARGE, "target_agent.policy.base_url=localhost:8000"],
            "https://…), or null to start its own; given: localhost:8000",
        ),
        (["task=arithmetic", "target_agent=policy", URL], "target_agent.policy.backend=peft"),
        ([*VLLM, URL], "target_agent.policy.base=tiny"),
        ([*VLLM, LARGE, URL, "trainer=grpo", "trainer.lora.save=[lm_head]"], "trainer.lora.save=['lm_head']"),
        ([*VLLM, LARGE, URL, "trainer=auto", "trainer.algorithms.ppo.lora.save=[lm_head]"], "vLLM cannot load"),
        (
            [*VLLM, LARGE, URL, "trainer=grpo", "trainer.lora.save=[]", "trainer.processes=2"],
            "trainer.processes=2 would each load an adapter into the server of target_agent.policy.backend=vllm",
        ),
        (["task=arithmetic", "trainer=grpo", "trainer.overlap=1"], "backend=peft what answers is what is trained"),
        (
            ["task=arithmetic", "trainer=grpo", "trainer.overlap=1", "policy=tinker", LARGE, "trainer.lora.alpha=32"],
            "backend=tinker a service answers with the newest; allowed with it: 0",
        ),
        (
            [
                "task=arithmetic",
                "trainer=auto",
                "trainer.algorithms.dpo.processes=4",
                "compute=slurm",
                "compute.resources.train.gpus=1",
            ],
            "trainer.processes=4 needs a GPU for each, but compute.resources.train.gpus=1",
        ),
        (
            ["task=arithmetic", "trainer=auto", "trainer.algorithms.dpo.shards=4"],
            "trainer.shards=4 divides the base over processes, none of which can answer from it; allowed with "
            "target_agent.policy.backend=peft: 1",
        ),
        (
            [*VLLM, LARGE, URL, "trainer=grpo", "trainer.shards=4", "compute=slurm", "compute.resources.train.gpus=1"],
            "trainer.shards=4 needs a GPU for each, but compute.resources.train.gpus=1",
        ),
    ],
)
def test_what_makes_no_sense_together_is_named_with_what_is_allowed(overrides, says):
    (line,) = faults(*overrides)
    assert says in line and "\n" not in line
