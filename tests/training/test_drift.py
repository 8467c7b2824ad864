"""The figures of a sampler's drift, and the factors that correct for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from sia_runner.training.drift import adapter_is_served, drift_factors, effect_at_server, measure_drift
from sia_runner.wire.learning import ForwardPass, LearnerAbilities, TrainingRow
from sia_runner.wire.policy import PolicyError

MASK = np.array([[True, True, False], [True, False, False]])
SAMPLER = np.log(np.array([[0.5, 0.2, 0.1], [0.1, 0.9, 0.9]]))
LEARNER = np.log(np.array([[0.5, 0.12, 0.9], [0.3, 0.1, 0.1]]))  # ratios 1, 0.6 and 3 inside the mask


def test_a_sampler_with_the_learners_logprobs_does_not_drift():
    assert measure_drift(SAMPLER, SAMPLER, MASK) == measure_drift(LEARNER, SAMPLER, MASK & False)
    assert measure_drift(SAMPLER, SAMPLER, MASK).kl == 0


def test_by_hand():
    drift = measure_drift(LEARNER, SAMPLER, MASK)
    assert drift.kl == pytest.approx((0 + (-0.4 - np.log(0.6)) + (2 - np.log(3))) / 3)
    assert drift.outside == pytest.approx(1 / 3)


@given(some.floats(0.01, 0.99), some.floats(0.01, 0.99))
def test_the_kl_is_that_of_the_sampler_to_the_learner_in_the_mean(sampler, learner):
    """Over a coin's two sides, weighted by the sampler's probabilities."""
    sides = [(sampler, learner), (1 - sampler, 1 - learner)]
    one = np.ones((1, 1), dtype=bool)
    mean = sum(p * measure_drift(np.log([[q]]), np.log([[p]]), one).kl for p, q in sides)
    assert mean == pytest.approx(sum(p * np.log(p / q) for p, q in sides), abs=1e-9)


def test_factors():
    assert drift_factors("none", LEARNER, SAMPLER, MASK) is None
    assert drift_factors("truncate", LEARNER, SAMPLER, MASK) == pytest.approx(np.array([[1, 0.6, 1], [2, 1, 1]]))
    assert drift_factors("mask", LEARNER, SAMPLER, MASK) == pytest.approx(np.array([[1, 0.6, 1], [0, 1, 1]]))
    assert drift_factors("truncate", LEARNER, SAMPLER, MASK, limit=5.0) == pytest.approx(
        np.array([[1, 0.6, 1], [3, 1, 1]])
    )


def rows_of(numbers):
    """Rows of 8 completions, of 20 to 27 tokens."""
    return list(np.split(numbers, np.cumsum(range(20, 27))))


def served(applied: float, effect: float = 0.05, noise: float = 0.0, offset: float = 0.0, seed: int = 0):
    """The share that a server shows which applies `applied` of an adapter, rounds, and has another base than ours."""
    random = np.random.default_rng(seed)
    base, change = random.normal(-2, 1, 188), random.normal(0, effect, 188)
    shifted = base + random.normal(0, offset, 188)
    shown = shifted + applied * change + random.normal(0, noise, 188)
    return effect_at_server(rows_of(shown), rows_of(shifted), rows_of(base + change), rows_of(base))


@pytest.mark.parametrize("applied", [0.0, 1.0])
def test_the_share_of_an_adapters_effect_that_a_server_shows(applied):
    assert (served(applied).share, served(applied).error) == pytest.approx((applied, 0), abs=1e-9)
    noisy = served(applied, noise=0.06)
    assert noisy.share == pytest.approx(applied, abs=4 * noisy.error)
    assert noisy.error == pytest.approx(0.06 / 0.05 / 188**0.5, rel=0.2)


def test_a_quantised_base_shifts_both_and_changes_nothing():
    assert served(0.0, offset=0.9, noise=0.01).share == pytest.approx(0, abs=0.1)
    assert served(1.0, offset=0.9, noise=0.01).share == pytest.approx(1, abs=0.1)


@given(some.integers(0, 1000), some.sampled_from([0.0, 1.0]))
def test_noise_is_no_evidence(seed, applied):
    """An effect far below the noise decides nothing, whatever the server does."""
    assert served(applied, effect=1e-3, noise=0.06, seed=seed).error > 1


def test_an_adapter_without_effect_proves_nothing():
    assert served(1.0, effect=0.0).error == np.inf
    assert served(0.0, effect=1e-7).error == np.inf


def test_a_few_tokens_prove_nothing():
    """With one token the regression fits whatever a server says."""
    one = [np.array([-1.0])]
    assert effect_at_server([np.array([-5.0])], one, [np.array([-0.9])], one).error == np.inf


class Learner:
    """A learner, and a sampler that applies its adapter: the logprob of a token is a number of its own."""

    def __init__(self, *, shares_base: bool, effect: float = 0.1) -> None:
        self.abilities = LearnerAbilities(True, True, True, False, shares_base=shares_base)
        self.base_calls, self.effect = 0, effect

    def forward(self, rows, *, base=False):
        self.base_calls += base
        return ForwardPass(range(len(rows)), self.score(rows, None if base else "live"))

    def score(self, rows, weights):
        return [
            np.array([-1.0 - (self.effect * token if weights else 0.0) for token in row.completion_ids]) for row in rows
        ]


@pytest.mark.parametrize("shares_base", [False, True])
def test_a_base_that_learner_and_sampler_share_is_asked_for_once(shares_base):
    """A service sends a bill for each call."""
    learner = Learner(shares_base=shares_base)
    rows = [TrainingRow((1, 2), tuple(range(length))) for length in range(2, 12)]
    assert adapter_is_served(learner.score, learner, rows, temperature=1.0)  # pyright: ignore[reportArgumentType]
    assert learner.base_calls == (0 if shares_base else 1)


@pytest.mark.parametrize(
    ("shown", "size", "refused"),
    [
        (0.0, 0.2, False),
        (0.0, 0.4, True),
        (0.3, 0.4, False),
        (0.3, 1.2, True),
        (0.8, 0.2, False),
    ],
)
def test_a_small_effect_that_a_server_rounds_away_refuses_nothing(shown, size, refused):
    """Three steps of 5e-5 on SmolLM2, served in bfloat16, showed .39 of an effect of .48 nats."""
    learner = Learner(shares_base=False, effect=size / 4)  # the root mean square of the tokens is 4
    rows = [TrainingRow((1, 2), tuple(range(length))) for length in range(2, 12)]

    def score(some_rows, weights):
        effect = shown * learner.effect if weights else 0.0
        return [np.array([-1.0 - effect * token for token in row.completion_ids]) for row in some_rows]

    if refused:
        with pytest.raises(PolicyError, match=f"shows {shown:.0%} of its effect"):
            adapter_is_served(score, learner, rows, temperature=1.0)  # pyright: ignore[reportArgumentType]
    else:
        served = adapter_is_served(score, learner, rows, temperature=1.0)  # pyright: ignore[reportArgumentType]
        assert served == (shown > 0.5)
