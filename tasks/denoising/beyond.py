"""A measure of what a denoised matrix says about a cell beyond its own counts and the mean cell.

Open Problems' squared error can be lowered without denoising: squares of a cell's own counts, or one profile for all
cells, beat MAGIC, since they are small where most held-out counts are 0. So the logarithms of the answer and of the
held-out molecules are compared only in the part that neither a function of the cell's own count nor a gene's mean
explains. Trivial answers have a correlation of .03 or less there, denoised ones of .07 or more; see README.md.
"""

import numpy as np
from numpy.typing import NDArray
from open_problems import Matrix, log_normalised

LEAST_BEYOND = 0.04
ROUNDS = 12  # of taking out the two means in turn: with 4 a profile for all cells still reaches .06, with 8 .02
NEGLIGIBLE = 1e-9  # share of the answer's squares that float32 leaves of what is fully explained


def beyond(train_cg: Matrix, held_out_cg: Matrix, denoised_cg: Matrix) -> float:
    """Return the correlation, over all cells and genes, of the unexplained logarithms of answer and held-out counts."""
    groups_cg = same_count(np.asarray(train_cg, dtype=np.int64))
    answer_cg = log_normalised(denoised_cg)
    left_cg, truth_cg = unexplained(answer_cg, groups_cg), unexplained(log_normalised(held_out_cg), groups_cg)
    squares = float((left_cg**2).sum())
    if squares <= NEGLIGIBLE * float((answer_cg**2).sum()):
        return 0.0
    return float((left_cg * truth_cg).sum() / np.sqrt(squares * (truth_cg**2).sum()))


def same_count(counts_cg: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for each pair of a cell and a count."""
    ends_c = np.cumsum(counts_cg.max(axis=1) + 1)
    return counts_cg + np.concatenate([[0], ends_c[:-1]])[:, None]


def unexplained(values_cg: NDArray[np.float64], groups_cg: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what remains when the mean of each group and of each gene is subtracted."""
    groups, left_cg = groups_cg.ravel(), values_cg
    sizes = np.maximum(np.bincount(groups), 1)
    for _ in range(ROUNDS):
        left_cg = left_cg - (np.bincount(groups, left_cg.ravel()) / sizes)[groups_cg]
        left_cg -= left_cg.mean(axis=0)
    return left_cg
