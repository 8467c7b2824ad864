"""Resources of stages follow from the policy, and what cannot fit is refused before anything starts."""

import json
from math import ceil

import pytest

from sia_runner.config.experiment import check_experiment
from sia_runner.experiment import resources
from sia_runner.experiment.context import Components
from sia_runner.experiment.resources import FitError, fit_lines, gpu_memory, gpu_request, loads_policy, stage_resources
from sia_runner.experiment.runner import job_kinds
from tests.config.test_experiment import composed, faults

SEVEN_B = {
    "model_type": "qwen2", "num_hidden_layers": 28, "hidden_size": 3584, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "max_position_embeddings": 32768,
}  # fmt: skip
STAGES = ("propose", "gate", "run", "verify", "train", "test")


@pytest.fixture
def seven_b(tmp_path):
    """Overrides of a run with a base of 7.6e9 parameters, of which only the configuration is there."""
    (tmp_path / "config.json").write_text(json.dumps(SEVEN_B))
    base = f"target_agent.policy.base={tmp_path}"
    return ["task=arithmetic", "trainer=grpo", "compute=slurm", base, "target_agent.policy.dtype=bfloat16"]


def of(overrides, *more):
    config = check_experiment(composed(*overrides, *more))
    return {kind: stage_resources(config, kind) for kind in STAGES}


def test_every_stage_that_loads_the_policy_gets_a_gpu_and_memory_for_its_weights(seven_b):
    found = of(seven_b)
    for kind in ("propose", "gate", "run", "train", "test"):
        assert (found[kind].gpus, found[kind].memory_gb, found[kind].cpus) == (1, 16 + 8, 4), kind
        assert found[kind].run_in != "driver", kind
    assert (found["verify"].gpus, found["verify"].memory_gb, found["verify"].run_in) == (None, 8, "driver")


def test_the_jobs_that_are_submitted_ask_for_what_was_computed(seven_b):
    compute = Components(check_experiment(composed(*seven_b, "compute.resources.policy.gpus='h100:1'"))).compute
    parameters = compute.parameters("gate")
    assert (parameters["gres"], parameters["mem"], parameters["cpus_per_task"]) == ("gpu:h100:1", "24576M", 4)
    assert "gres" not in compute.parameters("verify")


def test_what_the_configuration_names_wins(seven_b):
    found = of(
        seven_b,
        "compute.resources.policy.gpus='a100:1'",
        "compute.resources.policy.memory_gb=60",
        "+compute.resources.gate.cpus=9",
    )
    assert (found["gate"].gpus, found["gate"].memory_gb, found["gate"].cpus) == ("a100:1", 60, 9)
    assert of(seven_b, "compute.resources.train.gpus=3")["train"].gpus == 3


@pytest.mark.parametrize(
    "more",
    [
        ["target_agent.policy.base=tiny"],
        ["policy=vllm", "target_agent.policy.base_url=http://127.0.0.1:9/v1"],
        ["target_agent.policy.backend=tinker"],
    ],
)
def test_stages_that_ask_a_server_or_a_tiny_policy_need_none(seven_b, more):
    found = of(seven_b, *more)
    assert {found[kind].gpus for kind in STAGES if kind != "train"} == {None}
    assert found["propose"].run_in == "driver" and found["gate"].memory_gb == 8


def test_stages_that_start_servers_get_their_gpus_and_an_update_its_own_beside_them(seven_b):
    two_by_two = "target_agent.policy.vllm={owner: stage, servers: 2, tensor_parallel: 2}"
    servers = ["policy=vllm", two_by_two, "trainer.shards=3"]
    found = of(seven_b, *servers)
    assert {found[kind].gpus for kind in ("propose", "gate", "run", "test")} == {4} and found["train"].gpus == 3 + 4
    few = check_experiment(composed(*seven_b, *servers, "compute.resources.train.gpus=4"))
    with pytest.raises(FitError, match="train has 4 GPUs on a node, but train takes 7, 4 of them for servers"):
        list(fit_lines(few))


def test_shared_servers_are_a_job_of_their_own_and_stages_ask_for_none_of_their_gpus(seven_b):
    servers = ["policy=vllm", "target_agent.policy.vllm={servers: 2, tensor_parallel: 2}", "trainer.shards=3"]
    config = check_experiment(composed(*seven_b, *servers, "compute.resources.policy.gpu_gb=80"))
    found = {kind: stage_resources(config, kind) for kind in (*STAGES, "servers")}
    assert {found[kind].gpus for kind in ("propose", "gate", "run", "test")} == {None} and found["train"].gpus == 3
    assert (found["servers"].gpus, found["servers"].cpus, found["servers"].memory_gb) == (4, 8, ceil(2 * 15.2) + 8)
    assert found["propose"].run_in == "driver" and found["servers"].run_in != "driver"
    parameters = Components(config).compute.parameters("servers")
    assert "servers" in job_kinds(config), "sbatch is asked about it before anything starts"
    assert parameters["gres"] == "gpu:4" and "gres" not in Components(config).compute.parameters("run")
    last = list(fit_lines(config))[-1]
    assert "2 vLLM servers, a job of their own" in last
    assert "GPUs: 4, shared by: propose, train, gate, run, test" in last
    few = check_experiment(composed(*seven_b, *servers, "+compute.resources.servers.gpus=3"))
    with pytest.raises(FitError, match=r"compute\.resources\.servers has 3 GPUs on a node, but servers take 4"):
        list(fit_lines(few))


def test_on_one_machine_an_update_finds_its_gpus_beside_the_shared_servers(seven_b, monkeypatch):
    here = ["compute=local", "policy=vllm", "trainer.shards=2"]
    config = check_experiment(composed(*seven_b, *here))
    monkeypatch.setattr(resources, "gpus_here", lambda: [80e9] * 2)
    with pytest.raises(FitError, match="this machine has 2 GPUs on a node, but train takes 3, 1 of them for servers"):
        list(fit_lines(config))
    monkeypatch.setattr(resources, "gpus_here", lambda: [80e9] * 3)
    assert "1 vLLM server, started by the process of the run, GPUs: 1" in list(fit_lines(config))[-1]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["+compute.resources.servers.run_in=driver"], "compute.resources.servers.run_in=driver"),
        (["+compute.resources.servers.nodes=2"], "compute.resources.servers.nodes: only an update"),
        (["compute=local", "search.parallel_candidates=2", "trainer=none", "target_agent=policy",
          "target_agent.policy.vllm.owner=stage"], "allowed with it: target_agent.policy.vllm.owner=run"),
        (["compute=inline", "compute._target_=my.own.Compute", "target_agent.policy.vllm.owner=run"],
         "allowed with compute._target_=my.own.Compute: target_agent.policy.vllm.owner=stage"),
    ],
)  # fmt: skip
def test_servers_that_could_not_be_shared_are_refused_in_one_line(seven_b, more, says):
    (line,) = faults(*seven_b, "policy=vllm", *more)
    assert says in line and "\n" not in line


def test_a_compute_class_of_the_users_own_starts_servers_by_stage(seven_b):
    own = ["compute=inline", "compute._target_=my.own.Compute", "policy=vllm"]
    assert not check_experiment(composed(*seven_b, *own)).shares_servers
    assert check_experiment(composed(*seven_b, "compute=inline", "policy=vllm")).shares_servers


def test_a_server_that_cannot_hold_the_base_is_refused_with_a_number_of_gpus_that_do(seven_b):
    large = ["target_agent.policy.base=gpt-oss-120b", "policy=vllm", "trainer.lora.parameters=[]", "trainer.shards=6"]
    with pytest.raises(FitError, match=r"resources.servers has GPUs of 48.0 GB, .* allowed: .*tensor_parallel=2"):
        list(fit_lines(check_experiment(composed(*seven_b, *large, "compute.resources.policy.gpus='l40s:2'",
                                                 "compute.resources.train.gpus='h100:7'"))))  # fmt: skip
    large += ["target_agent.policy.vllm.owner=stage"]
    with pytest.raises(FitError, match=r"propose has GPUs of 48.0 GB, .* allowed: .*tensor_parallel=2"):
        list(fit_lines(check_experiment(composed(*seven_b, *large, "compute.resources.policy.gpus='l40s:2'",
                                                 "compute.resources.train.gpus='h100:7'"))))  # fmt: skip


def test_processes_of_an_update_are_dealt_to_nodes(seven_b):
    config = check_experiment(
        composed(
            *seven_b, "trainer.processes=4", "compute.resources.train.nodes=2", "compute.resources.train.gpus=null"
        )
    )
    assert (stage_resources(config, "train").gpus, stage_resources(config, "train").memory_gb) == (
        2,
        ceil(2 * 15.2) + 8,
    )
    (line,) = faults(
        *seven_b, "trainer.processes=3", "compute.resources.train.nodes=2", "compute.resources.train.gpus=2"
    )
    assert "trainer.processes=3 cannot be dealt evenly to compute.resources.train.nodes=2" in line
    (line,) = faults(*seven_b, "+compute.resources.gate.nodes=2")
    assert "allowed: train.nodes" in line


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            ["+compute.resources.gate.memory_gb=8"],
            "compute.resources.gate has 8.6 GB of memory, but 15.2 GB of weights",
        ),
        (["compute.resources.propose.run_in=driver"], "compute.resources.propose.run_in=driver would load"),
        (["+compute.resources.test.gpus='t4:1'"], "compute.resources.test has GPUs of 16.0 GB, but "),
        (["compute.resources.train.gpus='l4:1'"], "GPUs of 24.0 GB, but trainer grpo: base 15.2 GB"),
        (["compute.resources.train.gpu_gb=16"], "GPUs of 16.0 GB, but trainer grpo: base 15.2 GB"),
        (["+compute.resources.run.gpus=0", "target_agent.policy.device=cuda"], "compute.resources.run has no GPU"),
    ],
)
def test_what_cannot_fit_is_refused_with_its_key(seven_b, more, says):
    with pytest.raises(FitError, match=".") as raised:
        list(fit_lines(check_experiment(composed(*seven_b, *more))))
    assert says in str(raised.value) and "\n" not in str(raised.value)


def test_what_fits_is_said_by_part(seven_b):
    lines = list(fit_lines(check_experiment(composed(*seven_b, "compute.resources.train.gpus='h100:1'"))))
    assert "7.62e9 parameters, 15.2 GB in bfloat16" in lines[0]
    assert "base 15.2 GB + adapter" in lines[1] and "of 80.0 GB; rows of" in lines[1]
    assert lines[2].endswith("(GPUs: 1) of: propose, gate, run, test")


def test_shorter_rows_are_offered_where_they_would_fit(seven_b):
    long = ["trainer.max_length=32768", "compute.resources.train.gpus='h100:1'"]
    with pytest.raises(FitError, match=r"trainer.max_length=\d+ fits"):
        list(fit_lines(check_experiment(composed(*seven_b, *long))))


def test_a_base_in_this_process_has_to_fit_its_memory(seven_b, monkeypatch):
    config = check_experiment(composed(*seven_b, "compute=inline"))
    monkeypatch.setattr(resources, "gpus_here", lambda: [24e9])
    monkeypatch.setattr(resources.os, "sysconf", {"SC_PHYS_PAGES": 16 << 20, "SC_PAGE_SIZE": 4096}.__getitem__)
    with pytest.raises(FitError, match="this machine has GPUs of 24.0 GB"):
        list(fit_lines(config))
    monkeypatch.setattr(resources.os, "sysconf", {"SC_PHYS_PAGES": 2 << 20, "SC_PAGE_SIZE": 4096}.__getitem__)
    with pytest.raises(FitError, match="this machine has 8.6 GB of memory"):
        list(fit_lines(config))


def test_tiny_is_loaded_anywhere():
    config = check_experiment(composed("task=arithmetic", "trainer=grpo", "compute=slurm"))
    assert not any(loads_policy(config, kind) for kind in STAGES) and list(fit_lines(config)) == []


@pytest.mark.parametrize(
    ("name", "size"),
    [("h100", 80), ("a100", 40), ("a100_80gb", 80), ("nvidia_a100-sxm4-80gb", 80), ("rtx_4090", 24), ("fake", None)],
)
def test_the_memory_of_a_gpu_by_its_name(name, size):
    assert gpu_memory(name) == size


def test_a_request_for_gpus_is_a_number_or_a_type_and_a_number(seven_b):
    requests = ["a100:2", "a100", "2", "0"]
    found = [of(seven_b, f"compute.resources.policy.gpus='{text}'")["gate"] for text in requests]
    assert [gpu_request(each) for each in found] == [("a100", 2), ("a100", 1), ("", 2), ("", 0)]


class TestEstimate:
    @pytest.fixture
    def printed(self, monkeypatch, capsys):
        from sia_runner.__main__ import main

        def call(*args):
            monkeypatch.setenv("PIP_NO_INDEX", "0")
            code = main(["estimate", *args])
            return code, *capsys.readouterr()

        return call

    def test_the_fit_of_a_large_model_by_number_and_memory_of_gpus(self, printed):
        base = ["target_agent.policy.base=openai/gpt-oss-120b", "target_agent.policy.dtype=bfloat16"]
        code, out, _ = printed(
            "--fit", "--json", "task=arithmetic", "trainer=grpo", *base, "trainer.lora.parameters=[]"
        )
        plans = {(plan["gpus"], plan["gb"]): plan for plan in json.loads(out)["plans"]}
        assert code == 0 and len(plans) == 20
        assert (plans[8, 80]["train"], plans[8, 80]["servers"], plans[8, 80]["each"]) == (6, 1, 2)
        assert not plans[4, 80]["fits"] and plans[4, 141]["fits"]

    def test_the_table_says_what_does_not_fit_and_what_was_assumed(self, printed):
        base = ["target_agent.policy.base=openai/gpt-oss-20b", "target_agent.policy.dtype=bfloat16"]
        code, out, _ = printed("--fit", "task=arithmetic", "trainer=grpo", *base)
        row = next(line.split() for line in out.splitlines() if line.split()[:3] == ["1", "x", "24"])
        assert code == 0 and row[3] == "no" and "assumed of servers" in out

    def test_what_cannot_fit_is_refused(self, printed, seven_b):
        code, out, err = printed(*seven_b, "compute.resources.train.gpus='l4:1'")
        assert code == 2 and not out and err.startswith("refused: compute.resources.train has GPUs of 24.0 GB")
