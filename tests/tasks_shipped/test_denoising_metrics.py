"""Open Problems' metrics of tasks/denoising, against a second formulation in plain loops."""

import math
from importlib import import_module

import numpy as np
import pytest
from scipy import sparse

from sia_runner.system import bundled_folder
from sia_runner.tasks.worker import load_module

load_module(bundled_folder("tasks") / "denoising" / "verifier.py")  # puts its folder on the path
open_problems, dealt = import_module("open_problems"), import_module("molecules").dealt
guard = import_module("beyond")


def loops(train, held_out, denoised):
    """(mse_norm, poisson_norm) entry by entry."""

    def normalised(matrix):
        return [[math.log(1 + 10_000 * x / sum(row)) if sum(row) else 0.0 for x in row] for row in matrix]

    def mse(one, other):
        rows = zip(normalised(one), normalised(other), strict=True)
        squares = [(x - y) ** 2 for a, b in rows for x, y in zip(a, b, strict=True)]
        return math.fsum(squares) / len(squares)

    def total(matrix):
        return math.fsum(x for row in matrix for x in row)

    def loss(matrix):
        ratio = total(held_out) / total(train)
        terms = [
            y - x * ratio * math.log(y + 1e-6)
            for a, b in zip(held_out, matrix, strict=True)
            for y, x in zip(a, b, strict=True)
        ]
        return math.fsum(terms) / len(terms)

    none = mse(held_out, train)
    return (none - mse(held_out, denoised)) / none, (loss(train) - loss(denoised)) / (loss(train) - loss(held_out))


def counted(seed, cells=30, genes=40):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.4, 6, (cells, genes)) * rng.lognormal(0, 0.6, (cells, 1)))
    pair = dealt(sparse.csr_matrix(counts), np.random.RandomState(seed))
    return pair.train.toarray(), pair.held_out.toarray()


@pytest.mark.parametrize("seed", range(5))
def test_the_figures_are_those_of_plain_loops_to_1e_9(seed):
    train, held_out = counted(seed)
    train[3] = held_out[4] = 0  # a cell without molecules on one side
    denoised = np.random.default_rng(seed).gamma(0.5, 2, train.shape)
    denoised[5] = 0
    found = open_problems.reached(train, held_out, denoised)
    assert (found.mse_norm, found.poisson_norm) == pytest.approx(
        loops(train.tolist(), held_out.tolist(), denoised.tolist()), abs=1e-9
    )


def test_train_molecules_reach_0_and_held_out_ones_1():
    train, held_out = counted(0)
    none, perfect = (open_problems.reached(train, held_out, matrix) for matrix in (train, held_out))
    assert (none.mse_norm, none.poisson_norm) == (0, 0)
    assert (perfect.mse_norm, perfect.poisson_norm) == pytest.approx((1, 1))


def test_the_poisson_term_rewards_a_matrix_for_being_small_and_the_squared_error_does_not_see_it():
    """The oddity: the logarithm is of the held-out count, so that expression is punished wherever none was held out."""
    train, held_out = counted(1)
    once, small = (open_problems.reached(train, held_out, train * scale) for scale in (1, 1e-3))
    assert small.mse_norm == pytest.approx(once.mse_norm, abs=1e-12)
    assert small.poisson_norm > 0.9


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(np.nan, "finite"), (np.inf, "finite"), (-1e-9, "below 0"), (1e9, "above the number of all train molecules")],
)
def test_the_guard_names_what_is_wrong(spoil, why):
    train, _ = counted(2)
    denoised = train.astype(float)
    denoised[1, 2] = spoil
    assert why in open_problems.fault(train, denoised)
    assert open_problems.fault(train, train + 0.1) == ""


def test_a_cell_without_expression_is_a_fault_as_a_matrix_of_zeros_would_be():
    train, held_out = counted(2)
    denoised = train + 0.1
    denoised[4] = 0
    assert "no expression" in open_problems.fault(train, denoised)
    found = open_problems.reached(train, held_out, denoised)
    assert found.empty == pytest.approx(open_problems.reached(train, held_out, 0 * train).mse_norm, abs=1e-12)


def trivial(train):
    """What a cell's own counts and the mean cell tell, without any other."""
    mean = train.mean(axis=0)
    return {
        "squares": (train / train.max()) ** 2,
        "mean": np.tile(mean, (len(train), 1)),
        "squares, noisy": (train / train.max()) ** 2 * np.random.default_rng(0).lognormal(0, 0.1, train.shape),
        "counts times mean": (1 + train) * mean,
    }


def test_beyond_own_counts_and_the_mean_cell_trivial_answers_know_nothing_and_the_truth_all():
    train, held_out = counted(0, cells=150, genes=300)
    for name, answer in trivial(train).items():
        assert abs(guard.beyond(train, held_out, answer)) < guard.LEAST_BEYOND / 2, name
    assert guard.beyond(train, held_out, held_out) == pytest.approx(1)
    half = held_out * (np.random.default_rng(1).random(train.shape) < 0.5) + train / 9
    assert guard.beyond(train, held_out, half) > 0.3


def test_what_remains_unexplained_is_that_of_a_least_squares_fit(monkeypatch):
    """Against a fit of one number for each gene and one for each count of a cell."""
    monkeypatch.setattr(guard, "ROUNDS", 3000)
    rng = np.random.default_rng(3)
    counts, values = rng.integers(0, 3, (9, 12)), rng.normal(size=(9, 12))
    cells, genes = np.indices(counts.shape)
    facts = [genes.ravel() == gene for gene in range(12)]
    facts += [(cells.ravel() == cell) & (counts.ravel() == count) for cell in range(9) for count in range(3)]
    design = np.array(facts, dtype=float).T
    fitted = design @ np.linalg.lstsq(design, values.ravel(), rcond=None)[0]
    found = guard.unexplained(values, guard.same_count(counts))
    assert found.ravel() == pytest.approx(values.ravel() - fitted, abs=1e-9)


def test_molecules_are_dealt_as_open_problems_deals_those_of_the_dense_matrix():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(0.2, 5, (50, 80)))
    pair = dealt(sparse.csr_matrix(counts), np.random.RandomState(0))
    train = np.random.RandomState(0).binomial(counts, 0.9)
    kept = train.sum(axis=0) > 0
    assert (pair.train.toarray() == train[:, kept]).all()
    assert (pair.held_out.toarray() == (counts - train)[:, kept]).all()
    assert pair.train.sum() / counts.sum() == pytest.approx(0.9, abs=0.01)
