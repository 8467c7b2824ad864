"""The choice among several models of a proposer: by what their proposals gained per dollar."""

from collections import Counter

import pytest

from sia_runner.records import Lever, PastGeneration, Usage
from sia_runner.selection.bandit import choose_model, model_records

MODELS = ["small", "large"]


def past(n, model, difference=None, usd=1.0, tokens=100, status=None):
    status = status or ("rejected" if difference is None else "accepted")
    usage = Usage(usd, tokens, 1)
    return PastGeneration(
        n, Lever.HARNESS, "", status, "", None, model=model, difference=difference, standard_error=0.01, usage=usage
    )


FIRST = past(1, "small", 0.0, status="accepted")


def chosen(history, **how):
    return Counter(choose_model(MODELS, history, str(seed), **{"higher_is_better": True} | how) for seed in range(400))


def test_each_model_is_tried_once_in_order_and_the_first_harness_was_no_try():
    assert choose_model(MODELS, [], "0", True) == "small"
    assert choose_model(MODELS, [FIRST], "0", True) == "small"
    assert choose_model(MODELS, [FIRST, past(2, "small")], "0", True) == "large"
    unscored = past(3, "large", status="unscored")
    assert choose_model(MODELS, [FIRST, past(2, "small"), unscored], "0", True) == "large"


def test_a_model_whose_harnesses_never_worked_is_not_the_only_one_tried():
    history = [past(1, "small", status="failed")]
    assert choose_model(MODELS, history, "0", True) == "large"
    assert choose_model(MODELS, [*history, past(2, "large", 0.0, status="accepted")], "0", True) == "large"
    assert len(chosen([*history, past(2, "large", status="failed")])) == 2


def test_spending_shifts_to_the_one_that_gains_per_dollar():
    history = [FIRST]
    for k in range(12):
        history += [past(2 + 2 * k, "small", None if k else 0.1), past(3 + 2 * k, "large", None if k % 3 else 0.1, 2.0)]
    assert chosen(history)["large"] > 280
    dear = [past(p.n, p.model, p.difference, 40.0 if p.model == "large" else 1.0, status=p.status) for p in history]
    assert chosen(dear)["small"] > 320


def test_the_same_seed_chooses_the_same():
    history = [FIRST, past(2, "small", 0.1), past(3, "large", 0.1)]
    assert len({choose_model(MODELS, history, "7", True) for _ in range(3)}) == 1
    assert len(chosen(history)) == 2


def test_gains_count_beyond_their_standard_error_and_in_the_direction_of_the_metric():
    history = [FIRST, past(2, "small", 0.03), past(3, "small", -0.03), past(4, "large", 0.005)]
    assert model_records(MODELS, history, True)["small"].gains == pytest.approx((0.02, 0.0))
    assert model_records(MODELS, history, False)["small"].gains == pytest.approx((0.0, 0.02))
    assert model_records(MODELS, history, True)["large"].gains == (0.0,)


def test_where_a_price_is_not_known_tokens_are_the_cost_of_all():
    history = [FIRST, past(2, "small", usd=1.0, tokens=10), past(3, "large", usd=0.0, tokens=20)]
    assert [record.costs for record in model_records(MODELS, history, True).values()] == [(10.0,), (20.0,)]


def test_a_proposer_that_failed_before_it_was_paid_is_no_bargain():
    history = [FIRST]
    for k in range(8):
        history += [past(2 + 2 * k, "small", 0.1 if k % 2 else None), past(3 + 2 * k, "large", usd=0.0, tokens=0)]
    assert chosen(history)["small"] > 320
