"""What a trial with a share of the effort is: less training data, or fewer questions where these are what costs."""

import pytest

from sia_runner.config.composition import register_resolvers
from sia_runner.config.experiment import check_experiment
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.workbench import ProposalWorkbench
from sia_runner.store.run_directory import RunDir
from tests.config.test_providers import composed


@pytest.fixture
def effort(tmp_path):
    """`effort(overrides, share, questions)`: share of train and number of questions, and how many there are in all."""
    register_resolvers()

    def of(overrides, share, questions=None):
        context = RunContext(check_experiment(composed(*overrides)), RunDir(tmp_path))
        context.task.prepare(lambda _: None)
        bench = ProposalWorkbench(context, 2, tmp_path, None)
        return bench._effort(share, questions), len(context.task.splits()["dev"])

    return of


def test_a_program_is_tried_with_less_training_data(effort):
    assert effort(["task=smoke"], 0.25)[0] == (0.25, None)
    assert effort(["task=smoke"], 0.25, 10)[0] == (0.25, 10)


def test_a_harness_that_calls_a_model_is_tried_on_fewer_questions(effort):
    found, dev = effort(["task=arithmetic", "target_agent=policy"], 0.25)
    assert found == (1.0, -(-dev // 4))
    assert effort(["task=arithmetic", "target_agent=policy"], 0.25, 10)[0] == (1.0, 3)
    assert effort(["task=arithmetic", "target_agent=policy"], 0.001)[0] == (1.0, 1)


def test_a_whole_trial_is_the_same_one_however_it_is_asked_for(effort):
    """So that its result is kept under one name."""
    assert effort(["task=arithmetic", "target_agent=policy"], 1.0)[0] == (1.0, None)
    assert effort(["task=smoke"], 1.0)[0] == (1.0, None)
