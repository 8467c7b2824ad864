"""The doctor: one line per check, what to do where something is wrong, and exit codes that a script can use."""

import subprocess
import sys

import pytest

from sia_runner.__main__ import main
from sia_runner.commands import doctor
from sia_runner.commands.checks import FAULT, OK, SKIPPED, run_check
from sia_runner.commands.cluster_checks import check_cluster
from sia_runner.commands.doctor import run_checks
from sia_runner.config.experiment import check_experiment
from tests.config.test_providers import composed
from tests.provider import Answer, ProviderServer, Status


@pytest.fixture
def server():
    with ProviderServer(lambda request: Answer("ok", input_tokens=20, output_tokens=1)) as running:
        yield running


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("SIA_TEST_KEY", "test-key")


def custom(server, *overrides):
    address = server if isinstance(server, str) else server.base_url
    keys = ["provider=custom", f"provider.base_url={address}", "provider.model=scripted", "provider.key=SIA_TEST_KEY"]
    return [*keys, *overrides]


def examined(folder, *overrides, call=False):
    return {f.name: f for f in run_checks(check_experiment(composed(*overrides)), folder, call=call)}


@pytest.fixture
def command(capsys):
    """The command in this process: what it prints and its exit code."""

    def call(*args):
        code = main(["doctor", *args])
        return code, *capsys.readouterr()

    return call


def test_the_default_experiment_is_well_and_no_model_is_asked_for(tmp_path):
    results = examined(tmp_path)
    assert not [f for f in results.values() if f.state == FAULT]
    assert results["gateway"].state == results["cluster"].state == SKIPPED
    assert "200 test" in results["data"].text and not list(tmp_path.iterdir())


def test_a_whole_experiment_with_models_is_checked_to_the_harness_in_the_sandbox(tmp_path, server):
    results = examined(tmp_path, *custom(server, "meta_agent=llm"))
    assert not [f for f in results.values() if f.state == FAULT], results
    assert "serves scripted" in results["harness's model"].text and "not known" in results["harness's price"].text
    assert results["harness's gateway"].text == "a harness in the sandbox reaches it"
    assert results["harness's call"].state == SKIPPED and server.tally.calls == 0


def test_a_call_is_made_only_when_asked_for(tmp_path, server):
    results = examined(tmp_path, *custom(server), call=True)
    assert results["harness's call"].state == OK and "21 tokens" in results["harness's call"].text
    assert server.tally.calls == 1


@pytest.mark.parametrize("refused", ["tools", "max_tokens"])
def test_the_call_for_a_proposer_has_a_tool_and_its_own_settings(tmp_path, server, refused):
    def serve(request):
        if refused == "tools" and request.tools:
            return Status(400, message="does not support tools")
        if refused == "max_tokens" and request.body["max_tokens"] > 8192:
            return Status(400, message="max_tokens is too large")
        return Answer("", tool_calls=(("ok", {}),))

    server.script = serve
    results = examined(tmp_path, *custom(server, "meta_agent=llm"), call=True)
    words = "does not support tools" if refused == "tools" else "max_tokens is too large"
    assert results["proposer's call"].state == FAULT and words in results["proposer's call"].text
    assert results["harness's call"].state == OK
    server.script = lambda request: Answer("", tool_calls=(("ok", {}),))
    results = examined(tmp_path, *custom(server, "meta_agent=llm", "meta_agent.max_tokens=100"), call=True)
    assert results["proposer's call"].state == OK and "with a tool call" in results["proposer's call"].text
    assert server.requests[-2].body["max_tokens"] == 100


def test_every_fault_is_found_not_only_the_first_and_says_what_to_do(tmp_path, server, monkeypatch):
    monkeypatch.setenv("SIA_TEST_KEY", "wrong")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: doctor.shutil._ntuple_diskusage(100, 99, 1 << 20))
    results = examined(tmp_path, *custom(server, "budget.usd=1", "sandbox.disk_mb=4096"))
    assert results["harness's model"].state == FAULT and "key refused" in results["harness's model"].text
    assert results["harness's price"].state == FAULT and "give provider.prices" in results["harness's price"].text
    assert results["disk"].state == FAULT and "sandbox.disk_mb" in results["disk"].text
    assert results["harness's gateway"].state == OK  # what does not need the provider still works


def test_a_missing_key_a_dead_endpoint_and_an_unknown_model_are_faults(tmp_path, server, monkeypatch):
    assert (
        "did you mean 'scripted'?"
        in examined(tmp_path, *custom(server), "provider.model=scriptad")["harness's model"].text
    )
    dead = examined(tmp_path, *custom("http://127.0.0.1:1/v1"))["harness's model"]
    assert dead.state == FAULT and "does not answer at http://127.0.0.1:1" in dead.text
    monkeypatch.delenv("SIA_TEST_KEY")
    missing = examined(tmp_path, *custom(server))["harness's key"]
    assert missing.state == FAULT and "set SIA_TEST_KEY" in missing.text


def test_data_that_cannot_be_had_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("SIA_CACHE", str(tmp_path / "cache"))
    results = examined(tmp_path, "task=lawbench")["data"]
    assert results.state == FAULT and "sia_runner prepare task=lawbench" in results.text


@pytest.mark.parametrize(
    ("script", "state", "text"),
    [
        ("echo 'cpu up 3'; echo 'gpu down 1'", OK, "partitions cpu"),
        ("echo 'gpu down 1'", FAULT, "no partition that is up"),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", FAULT, "sinfo: Unable to contact slurm controller"),
        (None, FAULT, "login node"),
    ],
)
def test_the_cluster_is_asked_what_is_up(tmp_path, monkeypatch, script, state, text):
    if script:
        (tmp_path / "sinfo").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if script else str(tmp_path))
    config = check_experiment(composed("compute.name=slurm"))
    results = run_check("cluster", check_cluster, config)
    assert results.state == state and text in results.text


def test_the_server_of_a_policy_is_asked():
    pytest.importorskip("torch", reason="a policy needs the extra training")
    served = ("task=arithmetic", "target_agent=policy", "target_agent.policy.backend=vllm")
    config = check_experiment(
        composed(*served, "target_agent.policy.base=some/model", "target_agent.policy.base_url=http://127.0.0.1:9/v1")
    )
    results = run_check("policy", doctor._check_policy_backend, config)
    assert results.state == FAULT and "vllm does not answer at http://127.0.0.1:9" in results.text
    results = run_check(
        "policy", doctor._check_policy_backend, check_experiment(composed("task=arithmetic", "target_agent=policy"))
    )
    assert results.state == OK and results.text == "tiny, served by peft"


def test_servers_that_the_run_starts_are_named_with_those_that_share_them():
    pytest.importorskip("torch", reason="a policy needs the extra training")

    def checked(*more):
        policy = ["policy=vllm", "target_agent.policy.base=a/base", "target_agent.policy.vllm.servers=2"]
        config = check_experiment(composed("task=arithmetic", "target_agent=policy", *policy, *more))
        return run_check("policy", doctor._check_policy_backend, config)

    here = f"target_agent.policy.vllm.command=[{sys.executable}]"
    found = checked(here)
    assert found.state == OK and found.text.endswith("the run starts for all stages: 2 servers of 1 GPU(s)")
    assert "each stage starts: 2" in checked(here, "target_agent.policy.vllm.owner=stage").text
    missing = "target_agent.policy.vllm.command=[no-such-vllm]"
    assert checked(missing).state == FAULT
    assert checked(missing, "compute=slurm").state == OK, "the node of the job may have it"


def test_without_a_policy_there_is_no_server_to_ask():
    results = run_check("policy", doctor._check_policy_backend, check_experiment(composed("task=lawbench")))
    assert results.state == SKIPPED and results.text == "no weights are trained"


def test_the_command_prints_a_line_per_check_and_exits_0(tmp_path, server):
    line = [sys.executable, "-m", "sia_runner", "doctor", *custom(server)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith((OK, SKIPPED)) for line in lines) and len(lines) >= 10
    assert "test-key" not in done.stdout + done.stderr and not list(tmp_path.iterdir())


def test_faults_exit_1_and_a_refused_configuration_2(command):
    code, out, _ = command(*custom("http://127.0.0.1:1/v1"))
    assert code == 1 and "FAULT   harness's model" in out
    code, out, err = command("task=smok")
    assert code == 2 and err.startswith("refused: task=smok: no such choice") and not out
