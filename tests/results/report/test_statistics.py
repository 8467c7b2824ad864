"""Means over seeds, Holm's correction, and what may be called better."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sia_runner.records import Outcome, OutcomeKind, Score
from sia_runner.results.report.analysis import (
    TIE,
    SeedMean,
    holm_adjusted,
    interval_verdict,
    mean_over_questions,
    pair_verdict,
)
from sia_runner.results.report.runs import _gain_in_words


def test_the_interval_over_seeds_is_students():
    from scipy import stats

    values = [0.41, 0.44, 0.39, 0.47]
    expected = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert SeedMean.of(values).ci95 == pytest.approx(expected)


def test_one_seed_has_no_interval_and_no_deviation():
    assert (SeedMean.of([0.4]).sd, SeedMean.of([0.4]).ci95, SeedMean.of([])) == (None, None, None)


def test_runs_of_one_seed_say_nothing_about_seeds():
    assert SeedMean.per_seed([(0, 0.25), (0, 0.75)]) == SeedMean.of([0.5])
    assert SeedMean.per_seed([(0, 0.2), (0, 0.4), (1, 0.5)]).n == 2


def test_holms_own_order():
    """Four tests: the smallest p times four, the next times three, and never below one before."""
    assert holm_adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1))
def test_holm_never_makes_p_smaller_nor_changes_the_order(values):
    adjusted = holm_adjusted(values)
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))
    by_p = [q for _, q in sorted(zip(values, adjusted, strict=True))]
    assert by_p == sorted(by_p)


def test_what_was_not_tested_does_not_count_in_holm():
    assert holm_adjusted([None, 0.04, None]) == [None, pytest.approx(0.04), None]


def test_only_a_small_p_is_a_difference():
    assert pair_verdict(0.2, 0.049, "new", "old") == "new better"
    assert pair_verdict(-0.2, 0.049, "new", "old") == "old better"
    assert pair_verdict(0.2, 0.05, "new", "old") == TIE
    assert pair_verdict(0.2, None, "new", "old") == "not tested"


def test_every_interval_must_leave_zero_out():
    assert interval_verdict([(0.1, 0.3), (0.01, 0.2)], 1, "new", "old") == "new better"
    assert interval_verdict([(0.1, 0.3), (-0.01, 0.2)], 1, "new", "old") == TIE
    assert interval_verdict([(0.1, 0.3)], -1, "new", "old") == "old better"  # where lower is better
    assert interval_verdict([(-0.3, -0.1)], 1, "new", "old") == "old better"


def test_seeds_are_averaged_question_by_question():
    result = mean_over_questions([{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 0.0}])
    assert (result.value, result.n) == (0.25, 2)
    assert mean_over_questions([{"a": 1.0, "b": 0.0}, {"a": 0.0, "c": 0.0}]) is None


def test_a_transfers_gain_is_tested_only_where_the_metric_is_a_mean_over_questions():
    def side(*values, score):
        outcomes = [Outcome(str(k), OutcomeKind.PARTIAL, value) for k, value in enumerate(values)]
        return outcomes, Score(score, (0.0, 1.0), len(values))

    old, new = side(0.0, 0.0, 1.0, score=1 / 3), side(1.0, 1.0, 1.0, score=1.0)
    assert _gain_in_words(new, old, higher_is_better=True).startswith("+0.667 ±")
    assert "(2 won, 0 lost" in _gain_in_words(new, old, higher_is_better=True)
    ranked = _gain_in_words(side(1.0, 1.0, 1.0, score=0.9), side(0.0, 0.0, 1.0, score=0.8), higher_is_better=True)
    assert ranked.startswith("+0.100, not tested") and "won" not in ranked
    assert _gain_in_words(([], new[1]), old, higher_is_better=True) == ""
