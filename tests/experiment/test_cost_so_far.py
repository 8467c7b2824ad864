"""The cost of a run so far, against its budget."""

from sia_runner.config.experiment import BudgetConfig
from sia_runner.experiment.terminal import cost_so_far

NOTHING = {"usd": 0.0, "tokens": 0, "calls": 0}


def test_what_has_a_limit_is_shown_with_it():
    usage = {"usd": 0.123, "tokens": 4321, "calls": 12}
    limits = BudgetConfig(usd=5.0, calls=10_000, minutes=60.0)
    assert cost_so_far(usage, 3.14, limits) == "$0.12 of $5.00, 4,321 tokens, 12 of 10,000 calls, 3.1 of 60 minutes"


def test_without_calls_and_limits_there_is_nothing_to_say():
    assert cost_so_far(NOTHING, 3.0, BudgetConfig()) == ""
    assert cost_so_far(NOTHING, 3.0, BudgetConfig(minutes=2.5)) == "3.0 of 2.5 minutes"


def test_a_price_that_nobody_knows_is_no_zero():
    assert (
        cost_so_far(NOTHING | {"usd": None, "calls": 1}, 0.0, BudgetConfig(usd=1.0))
        == "price not known of $1.00, 1 calls"
    )
