"""The written rules: six recorded shapes give the six documented algorithms. The shapes are constructed, but for
MEASURED, which probes of runs wrote into decision.json."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sia_runner.errors import TrainingError
from sia_runner.records import Lever, OutcomeKind, PastGeneration, SampledCall, Trajectory
from sia_runner.selection.algorithm_choice import (
    ALGORITHM_RULES,
    AlgorithmRule,
    RewardShape,
    algorithm_purpose,
    choose_algorithm,
    measure_shape,
    why_no_signal,
    why_unaffordable,
    why_untrainable,
)
from sia_runner.selection.parents import plateau_length
from sia_runner.training.algorithms.base import ALGORITHMS

# A terminal 0/1 verifier, right four times in ten, a second a rollout.
TERMINAL = RewardShape(
    n=128,
    failed=0,
    groups=16,
    samples=8,
    mean=0.4,
    variance=0.24,
    skew=0.408,
    lowest=0,
    highest=1,
    distinct=2,
    zero_share=0.6,
    one_share=0.4,
    lowest_share=0.6,
    highest_share=0.4,
    graded_share=0,
    zero_groups=0.1,
    equal_groups=0.2,
    between_share=0.4,
    calls=1,
    tokens=180,
    seconds=1.2,
)
RECORDED = {
    "grpo": TERMINAL,
    # partial credit for each of many checks
    "ppo": replace(
        TERMINAL,
        mean=0.55,
        variance=0.05,
        skew=-0.3,
        distinct=41,
        graded_share=0.97,
        lowest_share=0.02,
        highest_share=0.01,
    ),
    # speed-ups of kernels: mostly nothing, sometimes much
    "entropic": replace(
        TERMINAL,
        mean=0.21,
        variance=0.3,
        skew=3.1,
        highest=4.2,
        distinct=19,
        graded_share=0.17,
        lowest_share=0.82,
        highest_share=0.01,
    ),
    # a strong base on an easy task
    "reinforce": replace(TERMINAL, mean=0.91, variance=0.0819, skew=-2.87, lowest_share=0.09, highest_share=0.91),
    # one success in a hundred
    "best_of_n": replace(TERMINAL, mean=0.01, variance=0.0099, skew=9.85, lowest_share=0.99, zero_groups=0.92),
    # a judge that orders the samples of each question
    "dpo": replace(
        TERMINAL,
        mean=3.5,
        variance=5.25,
        skew=0,
        highest=7,
        distinct=8,
        graded_share=0.75,
        between_share=0,
        lowest_share=0.125,
        highest_share=0.125,
    ),
}


@pytest.mark.parametrize("algorithm", RECORDED)
def test_each_recorded_shape_gives_its_documented_algorithm(algorithm):
    assert choose_algorithm(RECORDED[algorithm]).algorithm == algorithm


# As the probe of a run of task=arithmetic, seed 0, base=tiny, wrote it into decision.json.
MEASURED = {
    "grpo": RewardShape(
        n=64,
        failed=0,
        groups=16,
        samples=4.0,
        mean=0.3594,
        variance=0.2302,
        skew=0.5862,
        lowest=0.0,
        highest=1.0,
        distinct=2,
        zero_share=0.6406,
        one_share=0.3594,
        lowest_share=0.6406,
        highest_share=0.3594,
        graded_share=0.0,
        zero_groups=0.5625,
        equal_groups=0.75,
        between_share=0.7794,
        calls=1.0,
        tokens=12.9844,
        seconds=0.0171,
    ),
}


@pytest.mark.parametrize("algorithm", MEASURED)
def test_each_shape_measured_in_a_run_gives_its_documented_algorithm(algorithm):
    assert choose_algorithm(MEASURED[algorithm]).algorithm == algorithm


def test_every_algorithm_has_a_recorded_shape_and_a_rule():
    assert set(RECORDED) == set(ALGORITHMS) == {rule.algorithm for rule in ALGORITHM_RULES}


def test_the_reason_shows_the_measured_numbers_beside_the_thresholds():
    choice = choose_algorithm(RECORDED["best_of_n"])
    assert choice.reason == "nearly every reward is the lowest (lowest_share 0.99 >= 0.95): best_of_n"
    assert choice.rule == "nearly every reward is the lowest"


def test_where_rules_overlap_the_first_decides():
    rare_and_skewed = replace(RECORDED["best_of_n"], distinct=3)
    assert [rule.algorithm for rule in ALGORITHM_RULES if rule.holds(rare_and_skewed)][:2] == ["best_of_n", "entropic"]
    both_ways = [AlgorithmRule("grpo", "a", ()), AlgorithmRule("ppo", "b", ())]
    assert choose_algorithm(TERMINAL, both_ways).algorithm == "grpo"
    assert choose_algorithm(TERMINAL, both_ways[::-1]).algorithm == "ppo"


def test_the_last_rule_always_holds_so_that_there_is_always_a_choice():
    assert ALGORITHM_RULES[-1].conditions == ()
    assert (
        choose_algorithm(replace(TERMINAL, seconds=900)).reason == "rollouts are expensive (no other rule holds): dpo"
    )


@pytest.mark.parametrize(
    ("change", "algorithm"),
    [
        ({"calls": 2.9}, "grpo"),
        ({"calls": 3}, "ppo"),
        ({"skew": 1.49, "distinct": 3}, "grpo"),
        ({"skew": 1.5, "distinct": 3}, "entropic"),
        ({"skew": 3}, "grpo"),
        ({"lowest_share": 0.95}, "best_of_n"),
        ({"highest_share": 0.8}, "reinforce"),
        ({"mean": 0.8}, "grpo"),
        ({"between_share": 1e-12}, "dpo"),
        ({"between_share": 0, "groups": 7}, "grpo"),
        ({"seconds": 60.1}, "dpo"),
    ],
)
def test_thresholds(change, algorithm):
    assert choose_algorithm(replace(TERMINAL, **change)).algorithm == algorithm


def test_nothing_measured_is_no_choice():
    with pytest.raises(TrainingError, match="3 failed"):
        choose_algorithm(
            measure_shape([Trajectory("q", k, (), None, OutcomeKind.RATE_LIMITED) for k in range(3)], seconds=1)
        )


CALL = SampledCall((1,), (2,), (-0.1,), "stop", "base")


def drawn(reward_of_group, groups=16, samples=8, seed=0):
    """Trajectories whose rewards are drawn, group by group."""
    random = np.random.default_rng(seed)
    return [
        Trajectory(f"q{q:02}", sample, (CALL,), float(reward), OutcomeKind.PARTIAL)
        for q in range(groups)
        for sample, reward in enumerate(reward_of_group(random, samples))
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("algorithm", "reward_of_group"),
    [
        ("grpo", lambda random, samples: random.random(samples) < random.beta(2, 3)),
        ("ppo", lambda random, samples: random.binomial(40, random.beta(4, 4), samples) / 40),
        ("entropic", lambda random, samples: (random.random(samples) < 0.15) * random.exponential(1, samples)),
        ("reinforce", lambda random, samples: random.random(samples) < 0.93),
        ("best_of_n", lambda random, samples: random.random(samples) < 0.012),
        ("dpo", lambda random, samples: random.permutation(samples)),
    ],
)
def test_shapes_measured_from_simulated_verifiers_give_the_same(algorithm, reward_of_group, seed):
    choice = choose_algorithm(measure_shape(drawn(reward_of_group, seed=seed), seconds=10))
    assert choice.algorithm == algorithm, choice.reason


def rewarded(rewards, kind=OutcomeKind.PARTIAL, samples=4):
    """Trajectories with these rewards, four of each question."""
    return [Trajectory(f"q{n // samples:02}", n % samples, (CALL,), reward, kind) for n, reward in enumerate(rewards)]


PROBES = {  # 16 questions with 4 samples each, and what is chosen for them
    "half right": ([1.0, 0.0, 0.0, 1.0, 0.0] * 12 + [0.0] * 4, "grpo"),
    "a tenth right": ([0.0] * 57 + [1.0] * 7, "grpo"),
    "rare": ([0.0] * 30 + [1.0] + [0.0] * 33, "best_of_n"),
    "nearly capable": ([1.0] * 20 + [0.0] * 5 + [1.0] * 39, "reinforce"),
    "one failure": ([1.0] * 20 + [0.0] + [1.0] * 43, "reinforce"),
    "dense": ([float(n * 37 % 64) for n in range(64)], "ppo"),
    "a tail": ([0.0] * 52 + [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 8.0, 12.0, 13.0, 14.0, 16.0, 16.0], "entropic"),
    "ranks": ([float(n * 3 % 4) for n in range(64)], "dpo"),
}


@settings(deadline=None)
@given(some.sampled_from(list(PROBES)), some.integers(-20, 20), some.floats(-1e3, 1e3), some.randoms())
def test_the_choice_depends_neither_on_the_unit_nor_on_the_direction_of_the_metric(name, power, offset, order):
    """-1/1, percent, an error rate in place of a hit rate: the same rewards in another unit."""
    rewards, algorithm = PROBES[name]
    questions = [rewards[start : start + 4] for start in range(0, 64, 4)]
    order.shuffle(questions)
    scale = 2.0**power
    metric = [scale * (reward + offset) for question in questions for reward in question]
    errors = [max(metric) - value for value in metric]  # lower is better: what is negated is the reward
    assert choose_algorithm(measure_shape(rewarded(rewards), 10)).algorithm == algorithm
    for reward in (metric, [-error for error in errors]):
        choice = choose_algorithm(measure_shape(rewarded(reward), 10))
        assert choice.algorithm == algorithm, choice.reason


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("algorithm", "reward_of_group"),
    [
        ("grpo", lambda random, samples: random.random(samples) < random.beta(2, 3)),
        ("ppo", lambda random, samples: random.binomial(40, random.beta(4, 4), samples) / 40),
        ("entropic", lambda random, samples: (random.random(samples) < 0.15) * random.exponential(1, samples)),
        ("reinforce", lambda random, samples: random.random(samples) < 0.93),
        ("best_of_n", lambda random, samples: random.random(samples) < 0.012),
        ("dpo", lambda random, samples: random.permutation(samples)),
    ],
)
@pytest.mark.parametrize(("factor", "offset"), [(2, -1), (100, 0), (100, -100), (1, -1), (1e6, 0), (1e-3, 0.1)])
def test_simulated_verifiers_are_chosen_for_alike_in_every_unit(algorithm, reward_of_group, seed, factor, offset):
    rolled = drawn(reward_of_group, seed=seed)
    changed = [replace(one, reward=factor * (one.reward or 0) + offset) for one in rolled]
    choice = choose_algorithm(measure_shape(changed, seconds=10))
    assert choice.algorithm == algorithm, choice.reason


@settings(deadline=None)
@given(some.sampled_from(sorted(set(PROBES) - {"ranks"})), some.sampled_from([-1e6, -50.0, 50.0, 1e6]), some.data())
def test_a_single_outlier_decides_nothing(name, outlier, data):
    """Nor where it takes the place of the only success, or failure, of 64."""
    rewards, algorithm = PROBES[name]
    commonest = max(set(rewards), key=rewards.count)
    places = [place for place, reward in enumerate(rewards) if reward == commonest]
    changed = [*rewards]
    changed[data.draw(some.sampled_from(places))] = outlier
    choice = choose_algorithm(measure_shape(rewarded(changed), 10))
    assert choice.algorithm == algorithm, choice.reason


@pytest.mark.parametrize("seed", range(20))
def test_one_outlier_of_ten_deviations_among_normal_rewards_has_no_tail(seed):
    rewards = np.random.default_rng(seed).normal(size=64)
    assert choose_algorithm(measure_shape(rewarded([*rewards[1:], 10.0]), 10)).algorithm == "ppo"


def past(*outcomes):
    """A history: each entry is lever:status."""
    levers, statuses = zip(*(outcome.split(":") for outcome in outcomes), strict=True)
    return [
        PastGeneration(n, Lever(lever), "", status, "", None)
        for n, (lever, status) in enumerate(zip(levers, statuses, strict=True))
    ]


@pytest.mark.parametrize(
    ("history", "length"),
    [
        (["harness:accepted"], 0),
        (["harness:accepted", "harness:rejected", "harness:failed"], 2),
        (["harness:rejected", "harness:accepted", "harness:rejected"], 1),
        (["harness:accepted", "harness:rejected", "harness:unscored"], 1),
        (["harness:rejected", "weights:rejected"], 0),
        (["harness:rejected", "weights:rejected", "harness:rejected"], 1),
        (["harness:rejected", "weights:accepted"], 0),
    ],
)
def test_plateau_counts_harness_proposals_that_brought_nothing(history, length):
    assert plateau_length(past(*history)) == length


def test_before_any_generation_there_is_no_plateau():
    assert plateau_length([]) == 0


def test_nothing_can_be_trained_without_a_reward_or_without_a_call_that_names_its_question():
    assert why_untrainable(TERMINAL) == ""
    assert why_untrainable(replace(TERMINAL, n=0, failed=64)) == "no rollout has a reward (64 failed)"
    assert "names its question" in why_untrainable(replace(TERMINAL, calls=0))


def test_equal_rewards_in_each_group_show_no_direction_but_zeros_may_hide_a_success():
    assert why_no_signal(TERMINAL) == ""
    equal = replace(TERMINAL, equal_groups=1, zero_groups=0.6)
    assert why_no_signal(equal).startswith("in each of 16 groups all rewards are equal (mean 0.4)")
    for failure in (0.0, -1.0):  # as the verifier writes it
        failed = measure_shape(rewarded([failure] * 64, OutcomeKind.WRONG), 1)
        assert why_no_signal(failed) == ""
        assert choose_algorithm(failed).algorithm == "best_of_n"
    for perfect in (1.0, 0.0):  # 0: an error, where lower is better
        assert why_no_signal(measure_shape(rewarded([perfect] * 64, OutcomeKind.CORRECT), 1))


def test_a_choice_among_fewer_algorithms_takes_the_first_rule_that_gives_one_of_them():
    few = [rule for rule in ALGORITHM_RULES if rule.algorithm in ("reinforce", "grpo")]
    assert choose_algorithm(RECORDED["ppo"], few).algorithm == "grpo"
    with pytest.raises(TrainingError, match="reinforce"):
        choose_algorithm(RECORDED["ppo"], few[:1])


def test_each_algorithm_is_described_by_its_rules():
    assert algorithm_purpose("ppo") == "rewards are dense scalars; several steps share a reward"
    assert all(algorithm_purpose(algorithm) for algorithm in ALGORITHMS)


def test_an_update_that_does_not_fit_the_budget_is_not_begun():
    left = {"minutes": 20.0, "usd": None, "tokens": 1000.0}
    assert why_unaffordable({"minutes": 19.9, "usd": 5.0, "tokens": None}, left) == ""
    assert why_unaffordable({"minutes": 90.0, "usd": 5.0, "tokens": 1.0}, left) == (
        "an update is estimated to take 90 minutes, and 20 are left"
    )
