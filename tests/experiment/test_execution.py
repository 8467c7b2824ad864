"""A run of a harness that says nothing about the harness."""

import pytest

from sia_runner.config.experiment import check_experiment
from sia_runner.config.training import PolicyConfig
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.execution import (
    RunInterrupted,
    execute,
    infrastructure_failure,
    verify_submission,
)
from sia_runner.policy.backend import PolicyBackend
from sia_runner.sandbox.protocol import Ending, SandboxResult
from sia_runner.store.run_directory import HarnessRunDir, RunDir
from sia_runner.wire.grants import Grant, ProviderDown
from tests.config.test_providers import composed

PROVIDER = ["provider=custom", "provider.base_url=http://127.0.0.1:1/v1", "provider.model=m", "provider.key=null"]
POLICY = PolicyConfig(base="a/base", backend="vllm")


def test_a_harness_whose_calls_were_cut_by_the_end_of_the_run_was_interrupted(tmp_path, monkeypatch):
    """As with several candidates at once: the main thread closes the gateway, and a harness fails before its end."""
    context = RunContext(check_experiment(composed("task=smoke", "target_agent=model", *PROVIDER)), RunDir(tmp_path))
    context.task.prepare(lambda _: None)

    class Sandbox:
        def run(self, job):
            context.close_gateway()
            return SandboxResult(Ending.EXITED, exit_code=1)

    monkeypatch.setattr(RunContext, "sandbox", Sandbox())
    with pytest.raises(RunInterrupted):
        execute_gate(context, tmp_path)


def execute_gate(context, folder):
    (round_,) = context.task.rounds("gate")
    grant = Grant("target", 1, "gen_1", "gate", folder / "trajectories.jsonl")
    (folder / "harness").mkdir()
    return execute(context, grant, round_, HarnessRunDir(folder / "site"), folder / "harness", "salt", 5.0)


def test_a_harness_that_the_machine_had_no_memory_for_is_unscored(tmp_path, monkeypatch):
    context = RunContext(check_experiment(composed("task=smoke")), RunDir(tmp_path))
    context.task.prepare(lambda _: None)

    class Sandbox:
        def run(self, job):
            return SandboxResult(Ending.MACHINE_OUT_OF_MEMORY, exit_code=137, detail="killed by the kernel")

    monkeypatch.setattr(RunContext, "sandbox", Sandbox())
    execution = execute_gate(context, tmp_path)
    assert "machine out of memory" in execution.failure
    outcomes = verify_submission(context, HarnessRunDir(tmp_path / "site"), execution.unanswered)
    assert f"{len(outcomes)} of {len(outcomes)} killed" in infrastructure_failure(outcomes)


class Interrupted:
    """A sandbox in whose runs a harness has no time left; servers ended during the first ones."""

    def __init__(self, policy, ends):
        self.policy, self.ends, self.runs = policy, ends, 0

    def run(self, job):
        self.runs += 1
        self.policy.interruptions += self.runs <= self.ends
        (job.work / "submission.csv").write_text(f"run {self.runs}")
        return SandboxResult(Ending.TIMEOUT)


class Served:
    """A policy in the place of one at servers that the run started."""

    interruptions = 0

    def start(self):
        return self

    def close(self):
        pass


@pytest.mark.parametrize(("ends", "runs"), [(0, 1), (1, 2), (2, 3), (3, 3)])
def test_a_harness_whose_time_was_up_while_servers_were_started_again_is_run_again(tmp_path, monkeypatch, ends, runs):
    pytest.importorskip("aiohttp", reason="the models extra is not installed")
    served = Served()
    policy = ["task=smoke", "target_agent=policy", "policy=vllm", "target_agent.policy.base=a/base"]
    context = RunContext(check_experiment(composed(*policy)), RunDir(tmp_path))
    context.task.prepare(lambda _: None)
    sandbox = Interrupted(served, ends)
    monkeypatch.setattr(RunContext, "sandbox", sandbox)
    monkeypatch.setattr(RunContext, "_policy_backend", lambda self: PolicyBackend(POLICY, served))
    if ends == 3:
        with pytest.raises(ProviderDown, match="ended in the middle of 3 runs"):
            execute_gate(context, tmp_path)
    else:
        assert execute_gate(context, tmp_path).ended.ending is Ending.TIMEOUT
    context.close_gateway()
    assert sandbox.runs == runs
