"""The final test is scored once, and a failure that is not the candidate's does not use it up."""

import json

import pytest

from sia_runner.config.experiment import check_experiment
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.runner import resume_run, start_run
from sia_runner.sandbox.protocol import Ending, SandboxResult
from tests.config.test_providers import composed

INTERRUPTED = 130


@pytest.fixture
def full_machine(monkeypatch):
    """A machine that has no memory left for runs on test, until the list it gives is emptied."""
    full = [True]
    sandbox = RunContext.sandbox

    class Sandbox:
        def __init__(self, context):
            self.real = sandbox.fget(context)

        def run(self, job):
            if full and "test" in job.work.parts:
                return SandboxResult(Ending.MACHINE_OUT_OF_MEMORY, exit_code=137, detail="killed by the kernel")
            return self.real.run(job)

        def __getattr__(self, name):
            return getattr(self.real, name)

    monkeypatch.setattr(RunContext, "sandbox", property(Sandbox))
    return full


def test_without_memory_for_it_the_run_stops_and_a_resume_scores_it(tmp_path, full_machine, capsys):
    overrides = ["task=smoke", "max_gen=1"]
    folder = tmp_path / "run"
    assert start_run(check_experiment(composed(*overrides)), folder, overrides) == INTERRUPTED
    assert "out of memory in the final test of generation 1" in capsys.readouterr().out
    full_machine.clear()
    assert resume_run(folder, []) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "completed" and summary["best"]["test"]["n"] > 0
