"""Whose turn it is: the harness's or the weights', from the history alone."""

import pytest

from sia_runner.config.composition import register_resolvers
from sia_runner.config.experiment import Experiment, check_experiment
from sia_runner.config.training import AlgorithmConfig, LeverRule, NoTrainer
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.weights import decision as deciding
from sia_runner.experiment.weights.decision import Probe, decide_lever, estimate_training
from sia_runner.records import Lever, Outcome, OutcomeKind, PastGeneration, SampledCall, Trajectory
from sia_runner.selection.algorithm_choice import measure_shape
from sia_runner.store.run_directory import RunDir, write_outcomes
from tests.config.test_providers import composed

GRPO = AlgorithmConfig(name="grpo", kind="online", mode="SIA-W+H", algorithm="grpo")


def whose(n, *outcomes, trainer=GRPO, incumbent=1, **rule):
    """Each outcome is lever:status of a generation."""
    history = [
        PastGeneration(k, Lever(o.split(":")[0]), "", o.split(":")[1], "", None) for k, o in enumerate(outcomes, 1)
    ]
    config = Experiment.model_construct(
        trainer=trainer, lever=LeverRule(**({"latest_fraction": 1.0} | rule)), max_gen=8
    )
    return decide_lever(config, history, n, incumbent)


def test_without_a_trainer_or_an_accepted_harness_it_is_the_harness():
    stuck = ["harness:accepted", *["harness:rejected"] * 6]
    assert (
        whose(8, *stuck, trainer=NoTrainer(name="none", kind="none", mode="SIA-H"), latest_fraction=0.1).due_reason
        == ""
    )
    assert whose(3, "harness:failed", "harness:failed", incumbent=None, latest_fraction=0.1).due_reason == ""


def test_a_plateau_makes_the_weights_due_and_an_update_ends_it():
    assert whose(3, "harness:accepted", "harness:rejected", plateau=2).due_reason == ""
    decision = whose(4, "harness:accepted", "harness:rejected", "harness:failed", plateau=2)
    assert (decision.due_reason, decision.guaranteed) == ("harness plateau 2 >= 2", False)
    assert whose(4, "harness:accepted", "harness:rejected", "weights:rejected", plateau=1).due_reason == ""


@pytest.mark.parametrize(("n", "latest", "due"), [(4, 0.5, False), (5, 0.5, True), (2, 0.0, True), (8, 1.0, False)])
def test_one_update_is_guaranteed_when_a_share_of_the_generations_is_done(n, latest, due):
    now = whose(n, *["harness:accepted"] * (n - 1), latest_fraction=latest)
    assert now.guaranteed is due
    assert (now.due_reason == f"generation {n} of 8, and no weights were trained yet") is due


def test_after_one_try_nothing_is_guaranteed_any_more():
    assert not whose(7, "harness:accepted", "weights:failed", *["harness:accepted"] * 4, latest_fraction=0.5).guaranteed


def test_a_guarantee_that_meets_a_plateau_names_the_plateau():
    now = whose(6, *["harness:accepted"] * 4, "harness:rejected", latest_fraction=0.5)
    assert (now.due_reason, now.guaranteed) == ("harness plateau 1 >= 1", True)


@pytest.fixture
def estimate(tmp_path, monkeypatch):
    """`estimate(rewards, values)`: the prospects, by the rewards of the probe and the values of the parent's run."""

    def run(rewards, values, trainer=GRPO):
        config = Experiment.model_construct(trainer=trainer)
        context = RunContext(config, RunDir(tmp_path))
        scores = context.run.generation(1).scores
        scores.parent.mkdir()
        write_outcomes(scores, [Outcome(f"q{k}", OutcomeKind.WRONG, value) for k, value in enumerate(values)])
        called = (SampledCall((1,), (2,), (-1.0,), "stop", "base"),)
        rolled = [
            Trajectory(f"p{k // 4}", k % 4, called, reward, OutcomeKind.WRONG) for k, reward in enumerate(rewards)
        ]
        probe = Probe(measure_shape(rolled, 1.0), {}, len(rolled), 3, 1.0)
        monkeypatch.setattr(deciding, "_probe_harness", lambda *_: probe)
        monkeypatch.setattr(deciding, "_budget_left", lambda *_: {})
        monkeypatch.setattr("sia_runner.experiment.costs.update_cost", lambda *_: {})
        return estimate_training(context, 2, 1, {})

    return run


def test_a_policy_that_earned_nothing_in_probe_and_run_is_not_trained(estimate):
    prospects = estimate([0.0] * 16, [0.0] * 42)
    assert not prospects.suggested and "42" in prospects.why and "16" in prospects.why
    assert prospects.refused == {"grpo": prospects.why}


@pytest.mark.parametrize(("rewards", "values"), [([0.0] * 16, [0.0, 1.0]), ([0.0, 1.0] * 8, [0.0] * 42)])
def test_one_right_answer_is_enough_to_try(estimate, rewards, values):
    prospects = estimate(rewards, values)
    assert prospects.suggested == "grpo" and prospects.refused == {}


def test_a_service_that_has_no_value_head_is_not_asked_for_ppo():
    register_resolvers()
    keys = ["task=lawbench", "policy=tinker", "target_agent.policy.base=x/y", "trainer=auto"]
    config = check_experiment(composed(*keys))
    excluded = deciding._why_untrainable_there(config)
    assert excluded == {"ppo": "it needs a value head, which the Tinker protocol has not"}
    dense = [Trajectory(f"q{n // 4}", n % 4, (), n / 32, OutcomeKind.PARTIAL) for n in range(32)]
    probe = Probe(measure_shape(dense, 1.0), {}, 0, 0, 0.0)
    assert deciding._suggested_algorithm(config.trainer, probe, {})[0] == "ppo"
    assert deciding._suggested_algorithm(config.trainer, probe, excluded)[0] == "grpo"
