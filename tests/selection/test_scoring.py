"""The intervals of a score, and the rules by which a candidate replaces the incumbent."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sia_runner.records import Outcome, OutcomeKind
from sia_runner.selection.scoring import (
    AggregateError,
    accept_or_reject,
    checked_aggregate,
    mean_value,
    score_with_interval,
    wilson_interval,
)

KINDS = {1.0: OutcomeKind.CORRECT, 0.0: OutcomeKind.WRONG}


def outcomes(values):
    return [Outcome(f"u{i}", KINDS.get(v, OutcomeKind.PARTIAL), v) for i, v in enumerate(values)]


def judge(new, old, rule="ladder", level=0.05, higher_is_better=True, aggregate=None):
    return accept_or_reject(outcomes(new), outcomes(old), rule, level, higher_is_better, 0, aggregate)


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 50), (7, 50), (50, 50), (861, 1120)])
def test_wilson_is_that_of_scipy(right, n):
    from scipy.stats import binomtest

    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_score_of_right_and_wrong_answers_has_wilsons_interval():
    score = score_with_interval(outcomes([1.0] * 30 + [0.0] * 10))
    assert (score.value, score.n) == (0.75, 40)
    assert score.ci95 == wilson_interval(30, 40)


def test_other_values_get_a_seeded_bootstrap_interval_near_the_normal_one():
    rng = random.Random(3)
    values = [rng.random() for _ in range(400)]
    score = score_with_interval(outcomes(values))
    half = 1.96 * (1 / 12) ** 0.5 / 20
    assert score.ci95 == pytest.approx((score.value - half, score.value + half), abs=0.006)
    assert score == score_with_interval(outcomes(values))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "high", [1.0], 1 / 3])
def test_an_aggregate_is_a_finite_number_or_an_error_with_its_name(value):
    aggregate = checked_aggregate(lambda _: value, "verifier.py")
    if value == 1 / 3:
        assert score_with_interval(outcomes([0.0, 1.0]), aggregate).value == 1 / 3
    else:
        with pytest.raises(AggregateError, match=r"aggregate\(\) of verifier.py gave"):
            score_with_interval(outcomes([0.0, 1.0]), aggregate)


def test_an_aggregate_that_raises_shows_no_answer():
    def aggregate(_):
        raise KeyError("gold answer")

    with pytest.raises(AggregateError, match="raised KeyError") as raised:
        score_with_interval(outcomes([1.0]), checked_aggregate(aggregate, "verifier.py"))
    assert "gold" not in str(raised.value)


def test_samples_without_an_aggregate_are_left_out_of_intervals_and_verdicts():
    def spread(of):
        values = {outcome.value for outcome in of}
        return max(values) / (len(values) - 1)  # no number where all values are equal

    aggregate = checked_aggregate(spread, "verifier.py")
    score = score_with_interval(outcomes([0.2, 0.4, 0.2]), aggregate)
    assert score.value == 0.4 and all(map(math.isfinite, score.ci95))
    assert judge([0.2, 0.9, 0.2], [0.2, 0.4, 0.2], aggregate=aggregate).accepted


def test_an_interval_of_an_aggregate_is_about_the_aggregate():
    def worst(some):
        return min(o.value for o in some)

    score = score_with_interval(outcomes([0.2, 0.4, 0.9, 0.9]), worst)
    assert score.value == score.ci95[0] == 0.2
    assert score.ci95[1] > 0.2


def test_no_outcome_is_no_score():
    with pytest.raises(ValueError, match="no outcome"):
        score_with_interval([])


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=60))
def test_an_interval_holds_its_value(values):
    score = score_with_interval(outcomes(values))
    assert score.ci95[0] - 1e-12 <= score.value <= score.ci95[1] + 1e-12


def test_the_first_candidate_that_answers_is_accepted():
    verdict = accept_or_reject(outcomes([0.0, 0.0]), None, "ladder", 0.05, True, 0)
    assert (verdict.accepted, verdict.reason) == (True, "first scored candidate")


@pytest.mark.parametrize("old", [None, outcomes([0.0, 0.0])])
@pytest.mark.parametrize("higher", [True, False])
def test_a_candidate_that_answered_nothing_is_never_accepted(old, higher):
    nothing = [Outcome(f"u{i}", OutcomeKind.CRASHED, 0.0) for i in range(2)]
    verdict = accept_or_reject(nothing, old, "ladder", 0.05, higher, 0)
    assert (verdict.accepted, verdict.reason) == (False, "no question was answered")


def test_ladder_accepts_a_gain_above_its_own_standard_error():
    old = [1.0] * 500 + [0.0] * 500
    verdict = judge([1.0] * 540 + [0.0] * 460, old)  # 40 of 1000 won: .04 ± .0062
    assert verdict.accepted
    assert verdict.reason == "gain +0.040 ± 0.006 (n=1000)"
    assert verdict.difference == pytest.approx(0.04)
    assert verdict.p_value is None


def test_ladder_refuses_a_gain_within_its_standard_error():
    old = [1.0] * 20 + [0.0] * 20 + [1.0] * 60
    new = [0.0] * 20 + [1.0] * 22 + [1.0] * 58  # 20 lost, 20 won
    verdict = judge([*new[:-1], 1.0], old)
    assert not verdict.accepted
    assert verdict.reason.startswith("tie within noise: +0.000 ± 0.0")


def test_the_gain_alone_decides_not_the_mean_of_either():
    """The same gain of .02: accepted when only 2 questions differ, a tie when 42 differ."""
    old = [0.0] * 50 + [1.0] * 50
    clean = [1.0] * 2 + [0.0] * 48 + [1.0] * 50
    noisy = [1.0] * 22 + [0.0] * 28 + [0.0] * 20 + [1.0] * 30
    assert judge(clean, old).difference == judge(noisy, old).difference == pytest.approx(0.02)
    assert judge(clean, old).accepted
    assert not judge(noisy, old).accepted


def test_what_is_worse_says_so_and_what_is_the_same_too():
    assert judge([0.0] * 30 + [1.0] * 70, [1.0] * 100).reason.startswith("worse: -0.300")
    assert judge([1.0, 0.0], [1.0, 0.0]).reason == "no change +0.000 ± 0.000 (n=2)"


def test_with_one_question_any_gain_is_accepted():
    assert judge([0.51], [0.5]).accepted
    assert not judge([0.5], [0.5]).accepted


def test_lower_is_better_where_the_metric_says_so():
    assert judge([0.1] * 10, [0.2] * 10, higher_is_better=False).accepted
    assert not judge([0.2] * 10, [0.1] * 10, higher_is_better=False).accepted
    assert judge([0.1] * 10, [0.2] * 10, higher_is_better=False).difference == pytest.approx(-0.1)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 0), (9, 3), (30, 20), (3, 9)])
def test_mcnemar_is_the_exact_one_sided_test_of_scipy(won, lost):
    from scipy.stats import binomtest

    old = [0.0] * won + [1.0] * lost + [1.0] * 20
    new = [1.0] * won + [0.0] * lost + [1.0] * 20
    expected = binomtest(won, won + lost, 0.5, "greater").pvalue if won + lost else 1.0
    verdict = judge(new, old, "mcnemar")
    assert verdict.p_value == pytest.approx(expected)
    assert verdict.accepted == (won > lost and expected < 0.05)


def test_mcnemar_keeps_the_level_it_is_given():
    old, new = [0.0] * 9 + [1.0] * 3, [1.0] * 9 + [0.0] * 3  # p = .073
    assert not judge(new, old, "mcnemar", level=0.05).accepted
    assert judge(new, old, "mcnemar", level=0.1).accepted
    assert judge(new, old, "mcnemar").reason == "not significant: +0.500 ± 0.261 (n=12, p=0.073)"


def test_mcnemar_is_refused_for_a_metric_that_is_no_mean():
    with pytest.raises(ValueError, match="ladder"):
        judge([1.0, 0.0], [0.0, 0.0], "mcnemar", aggregate=mean_value)


def test_the_paired_bootstrap_accepts_a_clear_gain_only_and_is_seeded():
    rng = random.Random(1)
    old = [rng.random() for _ in range(200)]
    clear = [v + 0.05 + rng.gauss(0, 0.1) for v in old]
    none = [v + rng.gauss(0, 0.1) for v in old]
    assert judge(clear, old, "bootstrap").accepted
    assert not judge(none, old, "bootstrap").accepted
    assert judge(none, old, "bootstrap") == judge(none, old, "bootstrap")


def test_ladder_takes_a_metric_that_is_no_mean_by_its_bootstrap_error():
    def largest(some):
        return max(o.value for o in some)

    verdict = judge([0.9, 0.2, 0.3], [0.5, 0.4, 0.6], aggregate=largest)
    assert verdict.difference == pytest.approx(0.3)
    assert verdict.standard_error > 0.05


def test_candidates_asked_different_questions_cannot_be_compared():
    with pytest.raises(ValueError, match="same questions"):
        accept_or_reject(outcomes([1.0, 0.0]), outcomes([1.0]), "ladder", 0.05, True, 0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=2, max_size=40))
def test_no_rule_ever_accepts_both_ways(pairs):
    new, old = zip(*pairs, strict=True)
    for rule in ("ladder", "mcnemar"):
        assert not (judge(new, old, rule).accepted and judge(old, new, rule).accepted)


def test_repeated_selection_on_noise_does_not_climb():
    """The Ladder's point: 200 candidates that guess at random, picked greedily by the rule, stay near chance."""
    rng = random.Random(5)

    def guess():
        return [float(rng.random() < 0.5) for _ in range(400)]

    ladder = greedy = guess()
    for _ in range(200):
        new = guess()
        ladder = new if judge(new, ladder).accepted else ladder
        greedy = new if sum(new) > sum(greedy) else greedy
    assert sum(ladder) <= sum(greedy)
    assert sum(greedy) / 400 > 0.55
