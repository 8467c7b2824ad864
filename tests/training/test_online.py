"""Online training: rollouts of any shape become optimizer steps, in any number of passes."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("peft", reason="adapters are PEFT's")

from sia_runner.config.training import EarlyStopping, LoraSettings
from sia_runner.errors import TrainingError
from sia_runner.policy import lora
from sia_runner.training import drivers
from sia_runner.wire.adapter_files import WEIGHTS_FILE, adapter_sha256, read_adapter_origin
from tests.training import toy


def tensors_of(policy: toy.ToyPolicy, out) -> dict:
    from safetensors.torch import load_file

    return load_file(out / WEIGHTS_FILE)


def difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def short(**changes):
    return toy.settings("grpo", **{"steps": 3, "prompts_per_step": 3, "group_size": 4, **changes})


def test_it_learns_the_toy_and_leaves_the_policy_as_it_was(policy, tmp_path):
    before = toy.chance(policy.model, toy.HELD_OUT)
    bare = policy.model
    lines: list[str] = []
    told: list = []
    settings = toy.settings("grpo", prompts_per_step=8)
    trained = drivers.train(toy.assignment(policy, settings, tmp_path, say=lines.append, record=told.append))

    assert before < 0.5
    assert policy.model is bare
    assert toy.chance(bare, toy.HELD_OUT) == before
    learned = lora.load_adapter(bare, tmp_path / "adapter", policy.base_sha256, "served")
    assert toy.chance(learned, toy.HELD_OUT) > before + 0.3
    assert trained.steps == len(trained.reward) == len(trained.kl) == len(trained.entropy) == 40
    assert np.mean(trained.reward[-5:]) > np.mean(trained.reward[:5]) + 0.3
    assert trained.kl[0] == pytest.approx(0, abs=1e-6)
    assert trained.kl[-1] > 0.1
    assert trained.stopped == ""
    assert len(lines) == 40
    assert [figures["step"] for figures in told] == list(range(1, 41))
    for name in ("reward", "kl", "entropy"):
        assert [figures[name] for figures in told] == list(getattr(trained, name))
    assert {figures["rollouts"] for figures in told} == {8 * settings.group_size}
    origin = read_adapter_origin(tmp_path / "adapter")
    assert (origin.algorithm, origin.steps, origin.seed, origin.parent) == ("grpo", 40, 0, None)
    assert origin.reward == trained.reward[-1]


def test_the_same_seed_gives_the_same_adapter(warmed, tmp_path):
    made = []
    for name in ("one", "two"):
        policy = toy.ToyPolicy(copy.deepcopy(warmed), toy.small_tokenizer())
        torch.manual_seed(len(made))  # what was drawn before does not matter
        drivers.train(toy.assignment(policy, short(lora=LoraSettings(rank=4, alpha=8, dropout=0.1)), tmp_path / name))
        made.append(tensors_of(policy, tmp_path / name / "adapter"))
    assert difference(*made) == 0


def gradients(policy, settings, folder, rows_per_pass=10_000, change=None) -> dict:
    """Of the first step, by parameter."""
    from tests.training.toy_learner import ToyLearner

    seen: dict = {}
    step = ToyLearner.step

    def look(self, settings):
        named = [*self.model.named_parameters(), *(self.head.named_parameters("value_head") if self.head else ())]
        seen.update({name: weight.grad.clone() for name, weight in named if weight.grad is not None})
        return step(self, settings)

    policy.plain, policy.rows_per_pass = True, rows_per_pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyLearner, "step", look)
        roll = toy.ToyRoll(policy, change=change)
        drivers.train(toy.assignment(policy, settings, folder, roll=roll))
    return seen


def norm(gradient: dict) -> float:
    return float(sum((one**2).sum() for one in gradient.values()) ** 0.5)


def uneven(one):
    """Prompts of three lengths, one or two calls a trajectory."""
    call = one.calls[0]
    longer = (*[toy.NOISES] * (one.sample % 3), *call.prompt_ids)
    return replace(one, calls=(replace(call, prompt_ids=longer), *[call] * (one.sample % 2)))


@pytest.mark.parametrize("loss", ["dapo", "grpo", "bnpo", "dr_grpo", "sapo", "cispo"])
def test_cutting_a_step_into_passes_changes_nothing(policy, tmp_path, loss):
    """Also where rows differ in length: the gradient is that of the whole step, whatever the loss divides by."""
    settings = short(options={"loss": loss}, kl_coefficient=0.05, steps=1)
    whole = gradients(policy, settings, tmp_path / "whole", change=uneven)
    cut = gradients(policy, settings, tmp_path / "cut", 2, uneven)
    assert norm(whole) > 0
    assert norm({name: whole[name] - cut[name] for name in whole}) < 1e-4 * norm(whole)


def test_cutting_a_ppo_step_into_passes_changes_nothing(policy, tmp_path):
    settings = toy.settings("ppo", steps=1, prompts_per_step=3, group_size=4)
    whole = gradients(policy, settings, tmp_path / "whole", change=uneven)
    cut = gradients(policy, settings, tmp_path / "cut", 2, uneven)
    assert any("value_head" in name for name in whole)
    assert norm({name: whole[name] - cut[name] for name in whole}) < 1e-4 * norm(whole)


def test_every_call_of_a_trajectory_is_trained_on(policy, tmp_path):
    roll = toy.ToyRoll(policy, calls=3, change=lambda one: replace(one, reward=float(one.sample % 2)))
    trained = drivers.train(toy.assignment(policy, short(steps=1), tmp_path, roll=roll))
    single = toy.ToyRoll(policy)(roll.asked[0][1], samples=4, step=0, temperature=1.0)
    assert trained.tokens > 2 * sum(len(one.calls[0].completion_ids) for one in single)


def test_rollouts_that_failed_have_no_reward_and_no_part(policy, tmp_path):
    def fail(one):
        return replace(one, reward=None) if one.sample == 0 else replace(one, reward=float(one.sample % 2))

    lines: list[str] = []
    roll = toy.ToyRoll(policy, change=fail)
    trained = drivers.train(toy.assignment(policy, short(steps=1), tmp_path, roll=roll, say=lines.append))
    assert trained.reward == (pytest.approx(2 / 3),)  # samples 1, 2, 3: zeros for the failed ones would give a half
    assert "3 rollouts without reward" in lines[0]


def test_a_step_without_any_reward_is_an_error_that_says_so(policy, tmp_path):
    roll = toy.ToyRoll(policy, change=lambda one: replace(one, reward=None))
    with pytest.raises(TrainingError, match="none of the 12 rollouts has a reward"):
        drivers.train(toy.assignment(policy, short(), tmp_path, roll=roll))
    assert not (tmp_path / "adapter").exists()
    assert not hasattr(policy.model, "peft_config")


def test_a_harness_that_tags_no_call_cannot_be_trained(policy, tmp_path):
    roll = toy.ToyRoll(policy, change=lambda one: replace(one, calls=()))
    with pytest.raises(TrainingError, match="no rollout made a model call that names its question"):
        drivers.train(toy.assignment(policy, short(), tmp_path, roll=roll))


def test_calls_that_are_all_too_long_are_an_error_that_names_the_bound(policy, tmp_path):
    with pytest.raises(TrainingError, match=r"all 12 calls exceed max_length=7 tokens"):
        drivers.train(toy.assignment(policy, short(max_length=7), tmp_path))


def test_embeddings_and_head_are_trained_too_where_asked(policy, tmp_path):
    lora = LoraSettings(rank=4, alpha=8, save=["embed_tokens", "lm_head"])
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    trained = drivers.train(toy.assignment(policy, short(lora=lora, kl_coefficient=0.05), tmp_path))
    kept = tensors_of(policy, tmp_path / "adapter")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        found = next(value for key, value in kept.items() if key.endswith(name))
        assert not torch.equal(found, before[name]), name
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
    assert trained.kl[0] == pytest.approx(0, abs=1e-6)
    assert trained.kl[-1] > 1e-4, "the base keeps its own embeddings and head"


def test_equal_rewards_move_nothing(policy, tmp_path):
    roll = toy.ToyRoll(policy, change=lambda one: replace(one, reward=1.0))
    trained = drivers.train(toy.assignment(policy, short(), tmp_path, roll=roll))
    assert trained.tokens == 0
    assert np.isfinite([*trained.kl, *trained.entropy]).all()
    moved = [value for name, value in tensors_of(policy, tmp_path / "adapter").items() if "lora_B" in name]
    assert all(not value.any() for value in moved)


def test_stale_samples_are_weighted_by_importance(policy, tmp_path):
    """Samples said to come from a policy that drew them 100 times more often hardly count: their ratio is 0.01, below
    the clip range, and only those of negative advantage are cut there."""

    def stale(one):
        calls = tuple(replace(call, logprobs=tuple(x + np.log(100) for x in call.logprobs)) for call in one.calls)
        return replace(one, calls=calls)

    fresh = gradients(policy, short(steps=1), tmp_path / "fresh")
    old = gradients(policy, short(steps=1), tmp_path / "stale", change=stale)
    assert norm(old) < 0.05 * norm(fresh)


@pytest.mark.parametrize(
    ("correction", "times", "share"),
    [("truncate", 0.5, 0.5), ("truncate", 3.0, 2.0), ("mask", 0.5, 0.5), ("mask", 3.0, 0.0)],
)
def test_a_sampler_that_drifts_is_corrected_for(correction, times, share, policy, tmp_path):
    """The learner gives `times` the probability that the sampler had: each token weighs as much, within the limit."""
    settings = short(steps=1, correction=correction)
    exact = gradients(policy, short(steps=1), tmp_path / "exact")
    shifted = gradients(
        policy, settings, tmp_path / "shifted", change=lambda one: toy.with_logprobs(one, -np.log(times))
    )
    assert norm({name: shifted[name] - share * exact[name] for name in exact}) < 1e-4 * norm(exact)


def test_the_kl_is_to_the_base_also_when_training_goes_on_from_an_adapter(policy, tmp_path):
    """With TRL's own reference, a copy of the adapter it started from, the first step's KL would be 0."""
    first = drivers.train(toy.assignment(policy, short(steps=6, learning_rate=4e-3), tmp_path / "one"))
    start = tmp_path / "one" / "adapter"
    second = drivers.train(toy.assignment(policy, short(steps=1, kl_coefficient=0.1), tmp_path / "two", start=start))
    assert first.kl[-1] > 0.01
    assert second.kl[0] > 0.01
    assert read_adapter_origin(tmp_path / "two" / "adapter").parent == adapter_sha256(start)


def test_a_large_weight_of_the_kl_holds_the_policy_at_the_base(warmed, tmp_path):
    ends = []
    for weight in (0.0, 5.0):
        policy = toy.ToyPolicy(copy.deepcopy(warmed), toy.small_tokenizer())
        trained = drivers.train(toy.assignment(policy, short(steps=15, kl_coefficient=weight), tmp_path / str(weight)))
        ends.append(np.mean(trained.kl[-3:]))
    assert ends[1] < 0.2 * ends[0]


def test_ppo_trains_a_value_head_and_leaves_none(policy, tmp_path):
    trained = drivers.train(toy.assignment(policy, toy.settings("ppo", steps=6, prompts_per_step=3), tmp_path))
    assert trained.steps == 6
    assert not hasattr(policy.model, "value_head")
    assert not any("value" in name for name in tensors_of(policy, tmp_path / "adapter"))


def test_ppo_compares_single_samples_with_its_critic(policy, tmp_path):
    """A question with one sample has no difference within, which must not end the training."""
    watched = toy.settings("ppo", steps=8, prompts_per_step=16, group_size=1, early_stopping=EarlyStopping(window=2))
    trained = drivers.train(toy.assignment(policy, watched, tmp_path))
    assert (trained.steps, trained.stopped) == (8, "")


def test_ppo_rolls_out_once_for_all_its_passes(policy, tmp_path):
    roll = toy.ToyRoll(policy)
    settings = toy.settings("ppo", steps=8, prompts_per_step=3, options={"iterations": 4})
    drivers.train(toy.assignment(policy, settings, tmp_path, roll=roll))
    assert len(roll.asked) == 2


def test_the_critic_comes_to_expect_the_mean_reward_in_deviations_of_the_first_ones(policy, tmp_path):
    from tests.training.toy_learner import ToyLearner

    values: list[float] = []
    forward = ToyLearner.forward

    def seen(self, rows, *, base=False):
        result = forward(self, rows, base=base)
        if result.values is not None and not base:
            values.append(float(np.concatenate(result.values).mean()))
        return result

    policy.plain = True
    roll = toy.ToyRoll(policy)
    # A quarter of the first rewards is 1, and three quarters of all others.
    roll.change = lambda one: replace(one, reward=float((one.sample % 4 == 0) == (len(roll.asked) == 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyLearner, "forward", seen)
        drivers.train(toy.assignment(policy, toy.settings("ppo", steps=40, prompts_per_step=3), tmp_path, roll=roll))
    assert values[0] == 0
    assert values[-1] == pytest.approx((0.75 - 0.25) / math.sqrt(0.25 * 0.75), abs=0.35)
