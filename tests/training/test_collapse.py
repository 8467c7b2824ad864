"""Training stops when several steps in a row agree that it has gone wrong, and says which limit was passed."""

import math
from dataclasses import replace

import pytest

from sia_runner.config.training import EarlyStopping
from sia_runner.training.progress import TrainingStep, check_collapse

GOOD = TrainingStep(reward=0.5, kl=0.1, entropy=1.0, zero_groups=0.2, length=20.0, tokens=100)
LIMITS = EarlyStopping(max_kl=10, min_entropy=0.01, max_uniform_groups=1.0, max_length_ratio=4, window=3)


def test_a_healthy_training_goes_on():
    assert check_collapse([GOOD] * 50, LIMITS) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kl": 12.5}, "KL to the base 12.5"),
        ({"entropy": 0.004}, "entropy 0.004"),
        ({"length": 90.0}, "completions of 90 tokens against 20"),
        ({"length": 4.0}, "completions of 4 tokens against 20"),
        ({"drift_kl": 1.5}, "KL of the sampler to the learner 1.5"),
    ],
)
def test_damage_is_named_with_its_number_and_the_weights_are_not_kept(change, word):
    found = check_collapse([GOOD] * 4 + [replace(GOOD, **change)] * 3, LIMITS)
    assert found is not None
    assert word in found.reason
    assert found.harmful


def test_nothing_left_to_learn_is_no_damage():
    found = check_collapse([GOOD] + [replace(GOOD, zero_groups=1.0, reward=1.0)] * 3, LIMITS)
    assert found is not None
    assert "same reward" in found.reason
    assert not found.harmful


def test_one_healthy_step_within_the_window_is_enough_to_go_on():
    bad = replace(GOOD, kl=99.0)
    assert check_collapse([GOOD, bad, bad, GOOD, bad, bad], LIMITS) is None
    assert check_collapse([GOOD, bad, bad, GOOD, bad, bad, bad], LIMITS) is not None


def test_a_window_that_is_not_full_says_nothing():
    assert check_collapse([replace(GOOD, kl=99.0)] * 2, LIMITS) is None


def test_of_several_steps_on_a_batch_of_rollouts_the_first_counts():
    bad = replace(GOOD, zero_groups=1.0)
    assert check_collapse([GOOD] * 4 + [bad] * 8, LIMITS, iterations=4) is None
    assert check_collapse([GOOD] * 4 + [bad] * 9, LIMITS, iterations=4) is not None
    late = [GOOD, replace(GOOD, entropy=0.0), replace(GOOD, entropy=0.0)]
    assert check_collapse(late * 5, LIMITS, iterations=3) is None


def test_what_could_not_be_measured_passes_no_limit():
    unknown = replace(GOOD, kl=math.nan, entropy=math.nan, length=math.nan, drift_kl=math.nan)
    assert check_collapse([GOOD] + [unknown] * 3, LIMITS) is None


def test_a_limit_of_null_is_not_watched():
    nothing = EarlyStopping(max_kl=None, min_entropy=None, max_uniform_groups=None, max_length_ratio=None,
                            max_drift=None, window=3)  # fmt: skip
    awful = TrainingStep(reward=0, kl=1e9, entropy=0, zero_groups=1, length=1e9, tokens=0, drift_kl=1e9)
    assert check_collapse([GOOD] + [awful] * 9, nothing) is None


def rewarded(*rewards: float) -> list[TrainingStep]:
    return [replace(GOOD, reward=reward) for reward in rewards]


FLAT = EarlyStopping(window=3, min_gain=0.02, gain_window=4)


def test_a_reward_that_no_longer_rises_ends_the_training_and_is_no_damage():
    verdict = check_collapse(rewarded(0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.51, 0.49, 0.5, 0.5), FLAT)
    assert verdict is not None
    assert "mean reward 0.5 in the last 4 batches, 0.5 in the 4 before" in verdict.reason
    assert not verdict.harmful


def test_a_reward_that_rises_slowly_goes_on():
    assert check_collapse(rewarded(*(0.01 * step for step in range(30))), FLAT) is None


def test_the_reward_is_flat_only_over_two_full_windows():
    assert check_collapse(rewarded(*[0.5] * 7), FLAT) is None
    assert check_collapse(rewarded(*[0.5] * 8), FLAT) is not None


def test_without_a_least_gain_a_flat_reward_goes_on():
    assert check_collapse(rewarded(*[0.5] * 99), EarlyStopping(window=3, gain_window=4)) is None
