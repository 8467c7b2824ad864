"""Simulated single-cell data sets: gamma-Poisson counts of cell types and a gradient, with library sizes.

The model is that of Splat (Zappia et al. 2017) in its main parts: gene means are log-normal, some genes of a cell type
are shifted, a cell's library size is log-normal, and a gamma of mean 1 is what expression varies beyond that. Beside
the types a gradient runs through all cells, as in a development, so that a cell is more than its type.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

SPREAD = 1.8  # standard deviation of log gene means: few genes have most of the molecules, as in cells
MOST = 1.5  # standard deviations above the mean: and yet no gene has a large share of them


@dataclass(frozen=True, slots=True)
class Design:
    cells: int
    genes: int
    types: int
    depth: float  # molecules per cell, median
    dispersion: float  # variance of the gamma of mean 1


def drawn(rng: np.random.Generator) -> Design:
    """Data sets differ as studies do: in size, in types and in depth."""
    genes = int(rng.integers(900, 1301))
    return Design(
        cells=int(rng.integers(200, 281)),
        genes=genes,
        types=int(rng.integers(4, 8)),
        depth=genes * float(rng.uniform(2.4, 2.7)),
        dispersion=float(rng.uniform(0.05, 0.2)),
    )


def simulated(design: Design, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts (cells, genes). Every cell has a molecule."""
    rates_cg = rates(design, rng)
    sizes_c = design.depth * np.exp(rng.normal(0, 0.35, design.cells))
    shape = 1 / design.dispersion
    wobble_cg = rng.gamma(shape, 1 / shape, rates_cg.shape)
    counts_cg = rng.poisson(sizes_c[:, None] * rates_cg * wobble_cg)
    empty = np.flatnonzero(counts_cg.sum(axis=1) == 0)
    counts_cg[empty, rates_cg[empty].argmax(axis=1)] = 1
    return sparse.csr_matrix(counts_cg)


def rates(design: Design, rng: np.random.Generator) -> np.ndarray:
    """(cells, genes), of a cell they sum to 1: what denoising is to find."""
    genes, types = design.genes, design.types
    base_g = np.minimum(rng.normal(0, SPREAD, genes), MOST * SPREAD)
    marked_kg = rng.random((types, genes)) < 0.2
    shifts_kg = marked_kg * rng.normal(0.3, 1.1, (types, genes))
    slopes_g = (rng.random(genes) < 0.25) * rng.normal(0, 0.9, genes)
    kinds_c = rng.choice(types, design.cells, p=rng.dirichlet(np.full(types, 3.0)))
    places_c = rng.uniform(-1, 1, design.cells)
    log_cg = base_g + shifts_kg[kinds_c] + places_c[:, None] * slopes_g
    rates_cg = np.exp(log_cg)
    return rates_cg / rates_cg.sum(axis=1, keepdims=True)
