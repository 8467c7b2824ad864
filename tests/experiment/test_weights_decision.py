"""Whose turn it is: the harness's or the weights', from the history alone."""

import pytest

from sia_runner.config.experiment import Experiment
from sia_runner.config.training import AlgorithmConfig, LeverRule, NoTrainer
from sia_runner.experiment.weights.decision import decide_lever
from sia_runner.records import Lever, PastGeneration

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
