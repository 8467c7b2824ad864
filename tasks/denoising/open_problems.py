"""The metrics of Open Problems' denoising task, and the guard against trivial wins of TTT-Discover.

Luecken et al. 2025, "Defining and benchmarking open problems in single-cell analysis"; Batson et al. 2019, "Molecular
cross-validation for single-cell RNA-seq". Arrays are (cells, genes); `train` and `held_out` are counts of molecules.
Computed in float64 (scanpy, which Open Problems calls, takes float32 for counts: equal to about 1e-7).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating] | NDArray[np.integer]

TARGET = 1e4  # molecules per cell to which both sides are normalised
OFFSET = 1e-6  # within the logarithm of the Poisson term
LEAST_POISSON = 0.97  # of poisson_norm


def log_normalised(counts_cg: Matrix) -> NDArray[np.float64]:
    """Return log(1 + counts per 10,000). A cell without molecules stays 0."""
    counts_cg = np.asarray(counts_cg, dtype=np.float64)
    sums_c = counts_cg.sum(axis=1, keepdims=True)
    return np.log1p(counts_cg * np.divide(TARGET, sums_c, out=np.ones_like(sums_c), where=sums_c > 0))


def squared_errors(held_out_cg: Matrix, denoised_cg: Matrix) -> NDArray[np.float64]:
    """Return the squared error of each cell, summed over genes."""
    return ((log_normalised(held_out_cg) - log_normalised(denoised_cg)) ** 2).sum(axis=1)


def poisson(train_sum: float, held_out_cg: Matrix, denoised_cg: Matrix) -> float:
    """Return what Open Problems calls Poisson loss: the mean of y - x log(y + 1e-6).

    x is the denoised matrix scaled to the depth of the held-out molecules y. Prediction and truth are exchanged: a
    Poisson loss is x - y log x. So it never rewards a gene's expression where no molecule was held out, and the smaller
    x is there the better, whatever the truth. See README.md.
    """
    scale = held_out_cg.sum() / train_sum
    return float(np.mean(held_out_cg - denoised_cg * scale * np.log(held_out_cg + OFFSET)))


@dataclass(frozen=True, slots=True)
class Reached:
    """The metrics of a denoised matrix.

    `gain_c`: per cell, by how much the squared error is below that of the train molecules as they are, as a share of
    the mean over cells of the latter; its mean is mse_norm. `empty`: the mse_norm of a matrix of zeros.
    """

    gain_c: NDArray[np.float64]
    poisson_norm: float
    empty: float

    @property
    def mse_norm(self) -> float:
        """The mean gain over cells."""
        return float(self.gain_c.mean())


def reached(train_cg: Matrix, held_out_cg: Matrix, denoised_cg: Matrix) -> Reached:
    """Return the metrics, on a scale where the train molecules as they are reach 0, the held-out molecules 1."""
    none_c = squared_errors(held_out_cg, train_cg)
    train_sum = float(train_cg.sum())
    none = poisson(train_sum, held_out_cg, train_cg)
    perfect = poisson(train_sum, held_out_cg, held_out_cg)
    gain_c = (none_c - squared_errors(held_out_cg, denoised_cg)) / none_c.mean()
    poisson_norm = (none - poisson(train_sum, held_out_cg, denoised_cg)) / (none - perfect)
    empty = 1 - (log_normalised(held_out_cg) ** 2).sum() / none_c.sum()
    return Reached(gain_c, poisson_norm, float(empty))


def fault(train_cg: Matrix, denoised_cg: Matrix) -> str:
    """Return why a matrix cannot be judged; empty where it can."""
    if not np.isfinite(denoised_cg).all():
        return "not all values are finite"
    if denoised_cg.min() < 0:
        return "a value is below 0"
    if denoised_cg.max() > train_cg.sum():
        return "a value is above the number of all train molecules"
    if not denoised_cg.any(axis=1).all():  # not in TTT-Discover's guard: zeros pass it, and score well on poor cells
        return "a cell has no expression at all"
    return ""
