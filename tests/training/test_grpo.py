"""GRPO's advantages are TRL's own, and its loss settings are TRL's words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from sia_runner.errors import TrainingError
from sia_runner.training.algorithms.base import online_algorithm
from sia_runner.training.algorithms.group_based import normalised_rewards
from sia_runner.training.batch import collect_batch
from tests.training.trajectories import call, configured, group, groups, trajectory

LOSSES = ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"]


def advantages(trajectories, **options):
    """Of each row's first token."""
    return (
        online_algorithm(configured("grpo", options=options)).advantages(collect_batch(trajectories)).advantage_bt[:, 0]
    )


def test_by_hand():
    """mean 0.25, deviation 0.5 with G - 1 = 3 in its denominator."""
    assert normalised_rewards(np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx([0.75 / 0.5001] + [-0.25 / 0.5001] * 3)


@given(some.lists(some.integers(-50, 50), min_size=2, max_size=16).filter(lambda rewards: len(set(rewards)) > 1))
def test_mean_zero_and_deviation_one(rewards):
    advantage_g = normalised_rewards(np.array(rewards, dtype=float))
    assert advantage_g.mean() == pytest.approx(0, abs=1e-9)
    assert advantage_g.std(ddof=1) == pytest.approx(1, abs=1e-3)


def test_groups_are_normalised_apart_and_one_without_a_difference_is_zero():
    found = advantages(groups([0.0, 1.0], [0.0, 10.0], [0.1, 0.1]))
    assert found == pytest.approx([-0.707, 0.707, -0.707, 0.707, 0, 0], abs=1e-3)
    assert found[4:].tolist() == [0, 0]


def test_scales():
    rolled = groups([0.0, 1.0], [0.0, 0.5])
    spread = np.std([0.0, 1.0, 0.0, 0.5], ddof=1) + 1e-4
    assert advantages(rolled, scale="none") == pytest.approx([-0.5, 0.5, -0.25, 0.25])
    assert advantages(rolled, scale="batch") == pytest.approx(np.array([-0.5, 0.5, -0.25, 0.25]) / spread)


def test_a_trajectory_counts_once_in_its_group_however_many_calls_it_made():
    long = trajectory(1.0, *[call((index,)) for index in range(6)])
    found = advantages([long, trajectory(0.0, call((9,)), sample=1)])
    assert found == pytest.approx([0.707] * 6 + [-0.707], abs=1e-3)


def test_failures_shrink_the_group_and_do_not_count_as_zero():
    assert advantages(group([None, 1.0, 0.0])) == pytest.approx([0.707, -0.707], abs=1e-3)
    assert advantages(group([None, None, 1.0])).tolist() == [0]


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_types_pass_through(loss):
    level = "sequence" if loss == "luspo" else "token"
    made = online_algorithm(configured("grpo", options={"loss": loss, "importance_level": level, "iterations": 2})).loss
    assert (made.loss_type, made.importance_level, made.iterations) == (loss, level, 2)


def test_gspo_is_the_sequence_level_of_the_losses_that_allow_it():
    assert online_algorithm(configured("grpo", options={"loss": "grpo", "importance_level": "sequence"})).loss
    with pytest.raises(TrainingError, match="loss=dapo.*importance_level=token.*sequence"):
        online_algorithm(configured("grpo", options={"importance_level": "sequence"}))
    with pytest.raises(TrainingError, match="loss=luspo.*importance_level=sequence.*token"):
        online_algorithm(configured("grpo", options={"loss": "luspo"}))


def test_the_upper_clip_range():
    assert online_algorithm(configured("grpo", clip=0.1)).loss.epsilon_high == 0.1
    assert online_algorithm(configured("grpo", options={"clip_high": 0.28})).loss.epsilon_high == 0.28
    assert online_algorithm(configured("grpo", options={"loss": "cispo"})).loss.epsilon_high == 5.0, (
        "a bound on the ratio itself"
    )


@pytest.fixture(scope="module")
def trl_advantages(tmp_path_factory):
    """What GRPOTrainer makes of rewards: (rewards by group, scale) -> advantages, by one real step."""
    pytest.importorskip("trl", reason="compares with TRL's own advantages")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from tests.training.toy import PAD, small_model, small_tokenizer

    def measured(rewards, scale):
        count, size = rewards.shape
        drawn = iter(rewards.ravel().tolist())
        args = GRPOConfig(
            output_dir=str(tmp_path_factory.mktemp("trl")),
            max_steps=1,
            per_device_train_batch_size=count * size,
            num_generations=size,
            scale_rewards=scale,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=small_model(),
            reward_funcs=lambda completions, **_: [next(drawn) for _ in completions],
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [f"t{5 + index}" for index in range(count)]}),
            processing_class=small_tokenizer(),
            rollout_func=lambda prompts, trainer: {
                "prompt_ids": [[2, 5]] * len(prompts),
                "completion_ids": [[6, 7, PAD + 1]] * len(prompts),
                "logprobs": [[-1.0, -1.0, -1.0]] * len(prompts),
            },
        )
        trainer.train()
        return np.array(trainer._logs["advantages"])

    return measured


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_to_the_advantages_of_trls_trainer(trl_advantages, scale):
    random = np.random.default_rng(3)
    rewards = np.stack([random.random(4), [1.0, 0.0, 0.0, 0.0], [0.3, 0.3, 0.3, 0.3], random.normal(size=4) * 20])
    assert advantages(groups(*rewards.tolist()), scale=scale) == pytest.approx(trl_advantages(rewards, scale), abs=1e-5)
