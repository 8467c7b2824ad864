"""A run of a harness that says nothing about the harness."""

import pytest

from sia_runner.config.experiment import check_experiment
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.execution import (
    RunInterrupted,
    execute,
    infrastructure_failure,
    verify_submission,
)
from sia_runner.sandbox.protocol import Ending, SandboxResult
from sia_runner.store.run_directory import HarnessRunDir, RunDir
from sia_runner.wire.grants import Grant
from tests.config.test_providers import composed

PROVIDER = ["provider=custom", "provider.base_url=http://127.0.0.1:1/v1", "provider.model=m", "provider.key=null"]


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
