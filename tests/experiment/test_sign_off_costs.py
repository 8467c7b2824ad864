"""What an update will cost is told from what the run has measured: rollouts by the settings, the rest by proportion."""

import pytest

from sia_runner.config.experiment import check_experiment
from sia_runner.experiment.context import RunContext
from sia_runner.experiment.costs import plan_costs, planned_rollouts
from sia_runner.records import Lever, Proposal
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.run_directory import RunDir
from tests.config.test_providers import composed
from tests.training.trajectories import configured

SHAPE = {"n": 64, "calls": 2.0, "tokens": 30.0, "seconds": 0.5}


@pytest.fixture
def context(tmp_path):
    context = RunContext(check_experiment(composed("task=smoke")), RunDir(tmp_path))
    context.task.prepare(lambda _: None)
    return context


def weights(algorithm, **evidence):
    overrides = algorithm.model_dump(mode="json")
    return Proposal(Lever.WEIGHTS, "", overrides=overrides, parent=1, evidence=evidence)


def generation(n, **steps):
    seconds = {"gate": 1.0, "run": 11.0, "build": 5.0}
    return GenerationRecord.of(n, {"verify": {"val": {"value": 0.5, "ci95": [0.4, 0.6], "n": 9}}, **steps}, seconds)


def test_rollouts_follow_from_the_settings():
    assert planned_rollouts(configured("grpo", steps=6)) == (6 * 4, 6 * 4 * 16)
    assert planned_rollouts(configured("grpo", steps=6, options={"iterations": 4})) == (2 * 4, 2 * 4 * 16)
    assert planned_rollouts(configured("best_of_n", "offline", options={"rounds": 3})) == (3 * 4, 3 * 4 * 6)


def test_the_probe_says_what_one_rollout_takes(context):
    algorithm = configured("grpo", steps=3, prompts_per_step=8, group_size=4)
    training, after = plan_costs(context, weights(algorithm, shape=SHAPE), [])
    assert (training.sandbox_runs, training.questions) == (3 * 4, 3 * 4 * 8)
    assert (training.calls, training.tokens, training.usd) == (96 * 2, 96 * 30, 0.0)
    assert training.minutes == pytest.approx(96 * 0.5 / 60) and "time of the rollouts alone" in training.source
    assert after.calls is None and after.minutes is None  # nothing was run yet


def test_an_offline_update_rolls_its_questions_once_over_all_rounds(context):
    algorithm = configured("best_of_n", "offline", prompts=20, group_size=4, options={"rounds": 2})
    training, _ = plan_costs(context, weights(algorithm, shape=SHAPE), [])
    assert (training.sandbox_runs, training.questions) == (2 * 4, 20 * 4)


def test_without_a_probe_the_parent_says_it_and_starting_a_harness_counts_for_each_run(context):
    training, after = plan_costs(context, weights(configured("grpo", steps=3)), [generation(1)])
    select = sum(len(round_.questions) for round_ in context.task.rounds("select"))
    gate = sum(len(round_.questions) for round_ in context.task.rounds("gate"))
    each = (11.0 - 1.0) / select  # seconds of a question; 1 s of starting
    assert after.minutes == pytest.approx((2 + (select + gate) * each) / 60, abs=0.01)
    assert training.minutes == pytest.approx((12 + training.questions * each) / 60, abs=0.01)


def test_an_earlier_update_says_it_best_optimizer_and_all(context):
    earlier = configured("grpo", steps=4, prompts_per_step=8, group_size=4)
    curves = {"reward": [0.1], "kl": [], "entropy": [], "stopped": "", "tokens": 9}
    settings = {"algorithm": earlier.model_dump(mode="json"), "steps": 2, "seconds": 6.4}
    built = {"fault": "", "sha256": "s", **settings, **curves}  # stopped half-way: 64 rollouts
    planned = configured("grpo", steps=10, prompts_per_step=8, group_size=4)
    training, _ = plan_costs(context, weights(planned, shape=SHAPE), [generation(2, build=built)])
    assert (
        training.minutes == pytest.approx(320 * 0.1 / 60, abs=0.01) and training.source == "the update of generation 2"
    )


def test_of_an_earlier_offline_update_the_rounds_count_and_not_its_steps(context):
    earlier = configured("best_of_n", "offline", steps=40, prompts=16, group_size=4, options={"rounds": 2})
    curves = {"reward": [0.1], "kl": [], "entropy": [], "stopped": "", "tokens": 9}
    settings = {"algorithm": earlier.model_dump(mode="json"), "steps": 2, "seconds": 6.4}
    built = {"fault": "", "sha256": "s", **settings, **curves}  # one round of two: 32 rollouts
    training, _ = plan_costs(context, weights(earlier, shape=SHAPE), [generation(2, build=built)])
    assert training.minutes == pytest.approx(64 * 0.2 / 60, abs=0.01)


def test_options_that_the_algorithm_refuses_are_said(context):
    algorithm = configured("grpo", options={"nonsense": 1})
    training, _ = plan_costs(context, weights(algorithm, shape=SHAPE), [])
    assert training.sandbox_runs is None and "nonsense" in training.source


def test_a_harness_edit_costs_the_gate_and_the_run(context):
    (part,) = plan_costs(context, Proposal(Lever.HARNESS, "", parent=1), [generation(1)])
    assert part.name == "gate and run" and part.minutes is not None and part.calls == 0
